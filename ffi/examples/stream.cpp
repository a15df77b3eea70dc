// stream MODEL PROMPT [SEED [TOKENS]]: continues a text and prints it as it comes; a model with a chat template answers it.
#include <shadowllm.hpp>

#include <cstdio>
#include <iostream>

int main(int argc, char **argv) {
    if (argc < 3) {
        std::cerr << "usage: stream MODEL.sllm PROMPT [SEED [TOKENS]]\n";
        return 2;
    }
    try {
        shadowllm::check_version();
        auto model = shadowllm::Model::open(argv[1]);
        shadowllm::Session session(model);
        shadowllm::Tokenizer tokenizer(model);
        auto options = shadowllm::sampler_options();
        options.seed = argc > 3 ? std::stoull(argv[3]) : 0;
        shadowllm::Sampler sampler(options);
        const auto tokens = argc > 4 ? static_cast<std::uint32_t>(std::stoul(argv[4])) : 0;
        const auto print = [](const shadowllm::Token &token) {
            std::cout << token.text << std::flush;
            return true;
        };
        sllm_generation result;
        if (model.info().has_chat_template) {
            shadowllm::Chat chat(tokenizer);
            chat.add("user", argv[2]);
            result = chat.generate(session, sampler, print, tokens);
        } else {
            result = shadowllm::generate(session, tokenizer, sampler, argv[2], print, tokens);
        }
        std::cout << std::endl;
        std::fprintf(stderr, "[%llu tokens at %.1f tokens/s]\n", static_cast<unsigned long long>(result.generated_tokens),
                     result.decode_tokens_per_second);
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
