#![no_main]
shadowllm_fuzz::target!(chat);
