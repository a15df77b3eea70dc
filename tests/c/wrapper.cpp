// wrapper MODEL.sllm: what the classes of shadowllm.hpp do beyond calling C. The model's tokenizer normalizes by NFC.
#include <shadowllm.hpp>

#include <iostream>

int main(int argc, char **argv) {
    if (argc != 2) {
        std::cerr << "usage: wrapper MODEL.sllm\n";
        return 2;
    }
    try {
        auto model = shadowllm::Model::open(argv[1]);
        shadowllm::Tokenizer tokenizer(model);
        // A note, which NFC makes three characters of: 12 bytes in place of 4, each of them a token.
        std::string text, normal;
        for (int i = 0; i < 8; i++) {
            text += "\xf0\x9d\x85\xa0";
            normal += "\xf0\x9d\x85\x98\xf0\x9d\x85\xa5\xf0\x9d\x85\xae";
        }
        const auto tokens = tokenizer.tokenize(text);
        if (tokens.size() != normal.size() || tokenizer.detokenize(tokens) != normal || !tokenizer.tokenize("").empty()) {
            std::cerr << "wrong tokens: " << tokens.size() << "\n";
            return 1;
        }
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
