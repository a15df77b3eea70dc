#![no_main]
shadowllm_fuzz::target!(predictor);
