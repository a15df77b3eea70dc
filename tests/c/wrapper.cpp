// wrapper MODEL.sllm: what the classes of shadowllm.hpp do beyond calling C. The model has a chat template, and its tokenizer
// normalizes by NFC.
#include <shadowllm.hpp>

#include <iostream>

namespace {

void expect(bool holds, const std::string &what) {
    if (!holds) throw std::runtime_error("FAILED: " + what);
}

template <typename F> void refused(const std::string &what, F &&call) {
    try {
        call();
    } catch (const shadowllm::Error &error) {
        expect(error.status() == SLLM_STATUS_INVALID_ARGUMENT && std::string(error.what()).find("NUL") != std::string::npos,
               what + ": " + error.what());
        return;
    }
    expect(false, what + " was not refused");
}

void normalized(const shadowllm::Tokenizer &tokenizer) {
    // A note, which NFC makes three characters of: 12 bytes in place of 4, each of them a token.
    std::string text, normal;
    for (int i = 0; i < 8; i++) {
        text += "\xf0\x9d\x85\xa0";
        normal += "\xf0\x9d\x85\x98\xf0\x9d\x85\xa5\xf0\x9d\x85\xae";
    }
    const auto tokens = tokenizer.tokenize(text);
    expect(tokens.size() == normal.size() && tokenizer.detokenize(tokens) == normal, "tokens of normalized texts");
    expect(tokenizer.tokenize("").empty(), "no tokens of no text");
}

// A NUL inside a text, which C would cut there.
void nuls(shadowllm::Chat &chat) {
    const std::string nul("a\0b", 3);
    refused("a path", [&] { shadowllm::Model::open(nul); });
    refused("a role", [&] { chat.add(nul, "x"); });
    refused("a content", [&] { chat.add("user", nul); });
    refused("JSON", [&] { chat.add_json(std::string("{\"role\": \"user\"}\0", 17)); });
    refused("a name", [&] { chat.set_variable(nul, "1"); });
    refused("a value", [&] { chat.set_variable("tools", std::string("1\0", 2)); });
    refused("a name to remove", [&] { chat.remove_variable(nul); });
    expect(chat.count() == 0, "nothing was added");
}

void variables(shadowllm::Chat &chat) {
    chat.add_json("{\"role\": \"tool\", \"content\": \"42\", \"name\": \"f\"}");
    expect(chat.message_json(0) == "{\"role\":\"tool\",\"content\":\"42\",\"name\":\"f\"}", "a message with all its fields");
    chat.set_variable("add_generation_prompt", "false");
    expect(chat.render() == "tool: 42\n", "a variable");
    chat.remove_variable("add_generation_prompt");
    expect(chat.render() == "tool: 42\nassistant:", "the variable removed");
    chat.clear();
}

// What a token says, to a callback with all options.
void tokens(shadowllm::Session &session, const shadowllm::Tokenizer &tokenizer, shadowllm::Sampler &sampler,
            shadowllm::Chat &chat) {
    auto options = shadowllm::generate_options();
    options.max_tokens = 4;
    options.logprobs = 3;
    std::uint64_t next = 0;
    const auto likely = [&](const shadowllm::Token &token) {
        if (token.bytes.empty()) return true;
        expect(token.index == next++ && !token.thought, "the number of a token");
        expect(token.top_count == 3 && token.logprob < 0, "log-probabilities");
        expect(token.top[0].token == token.id && token.top[0].logprob >= token.top[2].logprob, "the likeliest first");
        return true;
    };
    const auto first = shadowllm::generate(session, tokenizer, sampler, "The jury said", likely, options);
    expect(first.generated_tokens == 4 && next == 4, "4 tokens");
    session.rewind(0);
    chat.add("user", "Who was the mayor?");
    next = 0;
    expect(chat.generate(session, sampler, likely, options).generated_tokens == 4 && next == 4, "4 tokens of an answer");
    expect(chat.count() == 2 && chat.message(1).first == "assistant", "the answer is added");
    // The text of its beginning stops the answer before it.
    const std::string answer = chat.message(1).second, begins = answer.substr(0, 1);
    const char *const stop[] = {begins.c_str()};
    options.stop = stop;
    options.stop_count = 1;
    session.rewind(0);
    chat.truncate(1);
    const auto stopped = chat.generate(session, sampler, [](const shadowllm::Token &) { return true; }, options);
    expect(stopped.stop == SLLM_STOP_STRING && chat.message(1).second.empty(), "stopped before " + begins);
    chat.clear();
}

struct Odd {
    int number;
};

// An exception of a callback goes through C to the caller, and the objects stay usable.
void thrown(shadowllm::Session &session, const shadowllm::Tokenizer &tokenizer, shadowllm::Sampler &sampler,
            shadowllm::Chat &chat) {
    const auto odd = [](const shadowllm::Token &token) -> bool { throw Odd{static_cast<int>(token.index) + 7}; };
    const auto caught = [&](const char *what, auto &&call) {
        int number = 0;
        session.rewind(0);
        try {
            call();
        } catch (const Odd &thrown) {
            number = thrown.number;
        }
        expect(number == 7, what);
    };
    const auto options = shadowllm::generate_options();
    chat.add("user", "Who was the mayor?");
    caught("from a text", [&] { shadowllm::generate(session, tokenizer, sampler, "The", odd); });
    caught("from a text with options", [&] { shadowllm::generate(session, tokenizer, sampler, "The", odd, options); });
    caught("from an answer", [&] { chat.generate(session, sampler, odd); });
    caught("from an answer with options", [&] { chat.generate(session, sampler, odd, options); });
    chat.clear();
    session.rewind(0);
    int count = 0;
    shadowllm::generate(session, tokenizer, sampler, "The", [&](const shadowllm::Token &) { return ++count < 2; }, 5);
    expect(count == 2, "usable after, and stopped by the callback");
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::cerr << "usage: wrapper MODEL.sllm\n";
        return 2;
    }
    try {
        const auto model = shadowllm::Model::open(argv[1]);
        const shadowllm::Tokenizer tokenizer(model);
        auto sampling = shadowllm::sampler_options();
        sampling.temperature = 0;
        shadowllm::Sampler sampler(sampling);
        shadowllm::Session session(model);
        shadowllm::Chat chat(tokenizer);
        normalized(tokenizer);
        nuls(chat);
        variables(chat);
        tokens(session, tokenizer, sampler, chat);
        thrown(session, tokenizer, sampler, chat);
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
