/* shadowllm for C++17: the objects of shadowllm.h with destructors, failures as exceptions. Header-only.
 *
 *     auto model = shadowllm::Model::open("model.sllm");
 *     shadowllm::Session session(model);
 *     shadowllm::Sampler sampler;
 *     shadowllm::Chat chat{shadowllm::Tokenizer(model)};
 *     chat.add("user", "Name three rivers.");
 *     chat.generate(session, sampler, [](const shadowllm::Token &token) {
 *         std::cout << token.text << std::flush;
 *         return true;                                     // false stops
 *     });
 *
 * Objects can be moved, not copied (fork a session for a copy). What shadowllm.h says of threads holds here too.
 */
#ifndef SHADOWLLM_HPP
#define SHADOWLLM_HPP

#include "shadowllm.h"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shadowllm {

/* A status other than SLLM_STATUS_OK, with the message that came with it. */
class Error : public std::runtime_error {
public:
    explicit Error(std::int32_t status) : Error(status, sllm_last_error_message()) {}
    Error(std::int32_t status, const char *message) : std::runtime_error(message), status_(status) {}
    std::int32_t status() const noexcept { return status_; }

private:
    std::int32_t status_;
};

inline void check(std::int32_t status) {
    if (status != SLLM_STATUS_OK) throw Error(status);
}

/* Throws unless library and header are of compatible versions. */
inline void check_version() {
    if (sllm_version() / 1000 != SLLM_VERSION / 1000) throw std::runtime_error("shadowllm: library and header differ");
}

namespace detail {
template <typename T, std::int32_t (*Free)(T **)> struct Freed {
    void operator()(T *object) const noexcept { Free(&object); }
};
template <typename T, std::int32_t (*Free)(T **)> using Handle = std::unique_ptr<T, Freed<T, Free>>;

/* A text for C, where a NUL would end it. */
inline const char *c_text(const std::string &text) {
    if (text.find('\0') != std::string::npos) throw Error(SLLM_STATUS_INVALID_ARGUMENT, "a text has a NUL inside");
    return text.c_str();
}

/* A structure with its size set and the rest zero. */
template <typename T> T sized() {
    T value{};
    value.struct_size = sizeof value;
    return value;
}
} // namespace detail

class Model {
public:
    static Model open(const std::string &path, const sllm_load_options *options = nullptr) {
        sllm_model *model = nullptr;
        check(sllm_model_open(detail::c_text(path), options, &model));
        return Model(model);
    }
    static Model open_fd(int fd, std::uint64_t offset = 0, std::uint64_t length = 0,
                         const sllm_load_options *options = nullptr) {
        sllm_model *model = nullptr;
        check(sllm_model_open_fd(fd, offset, length, options, &model));
        return Model(model);
    }
    /* The bytes must outlive everything made from the model. */
    static Model open_memory(const void *data, std::size_t size, const sllm_load_options *options = nullptr) {
        sllm_model *model = nullptr;
        check(sllm_model_open_memory(data, size, options, &model));
        return Model(model);
    }
    sllm_model_info info() const {
        auto info = detail::sized<sllm_model_info>();
        check(sllm_model_get_info(get(), &info));
        return info;
    }
    sllm_memory estimate_memory(const sllm_session_options *options = nullptr) const {
        auto memory = detail::sized<sllm_memory>();
        check(sllm_estimate_memory(get(), options, &memory));
        return memory;
    }
    bool is_end(std::uint32_t token) const {
        std::int32_t end = 0;
        check(sllm_model_is_end(get(), token, &end));
        return end != 0;
    }
    sllm_model *get() const noexcept { return handle_.get(); }

private:
    explicit Model(sllm_model *model) : handle_(model) {}
    detail::Handle<sllm_model, sllm_model_free> handle_;
};

/* Options with all defaults, for the caller to change. */
inline sllm_session_options session_options() {
    sllm_session_options options;
    check(sllm_session_options_defaults(&options, sizeof options));
    return options;
}
inline sllm_sampler_options sampler_options() {
    sllm_sampler_options options;
    check(sllm_sampler_options_defaults(&options, sizeof options));
    return options;
}

class Sampler {
public:
    Sampler() : Sampler(nullptr) {}
    explicit Sampler(const sllm_sampler_options &options) : Sampler(&options) {}
    void accept(std::uint32_t token) { check(sllm_sampler_accept(get(), token)); }
    sllm_sampler *get() const noexcept { return handle_.get(); }

private:
    explicit Sampler(const sllm_sampler_options *options) {
        sllm_sampler *sampler = nullptr;
        check(sllm_sampler_new(options, &sampler));
        handle_.reset(sampler);
    }
    detail::Handle<sllm_sampler, sllm_sampler_free> handle_;
};

class Session {
public:
    explicit Session(const Model &model, const sllm_session_options *options = nullptr) {
        sllm_session *session = nullptr;
        check(sllm_session_new(model.get(), options, &session));
        handle_.reset(session);
    }
    Session(const Model &model, const sllm_session_options &options) : Session(model, &options) {}
    Session fork() const {
        sllm_session *session = nullptr;
        check(sllm_session_fork(get(), &session));
        return Session(session);
    }
    void prefill(const std::vector<std::uint32_t> &tokens) {
        check(sllm_session_prefill(get(), tokens.data(), tokens.size()));
    }
    void decode(std::uint32_t token) { check(sllm_session_decode(get(), token)); }
    /* A copy; sllm_session_logits returns the session's own. */
    std::vector<float> logits() const {
        const float *logits = nullptr;
        std::size_t count = 0;
        check(sllm_session_logits(get(), &logits, &count));
        return std::vector<float>(logits, logits + count);
    }
    std::uint32_t sample(Sampler &sampler) {
        std::uint32_t token = 0;
        check(sllm_session_sample(get(), sampler.get(), &token));
        return token;
    }
    std::size_t position() const {
        std::size_t position = 0;
        check(sllm_session_position(get(), &position));
        return position;
    }
    /* Positions in all. */
    std::size_t context() const {
        std::size_t context = 0;
        check(sllm_session_context(get(), &context));
        return context;
    }
    /* A copy of the tokens read so far. */
    std::vector<std::uint32_t> tokens() const {
        const std::uint32_t *tokens = nullptr;
        std::size_t count = 0;
        check(sllm_session_tokens(get(), &tokens, &count));
        return std::vector<std::uint32_t>(tokens, tokens + count);
    }
    void rewind(std::size_t position) { check(sllm_session_rewind(get(), position)); }
    /* From any thread. */
    void cancel() { check(sllm_session_cancel(get())); }
    void reset_cancel() { check(sllm_session_reset_cancel(get())); }
    std::vector<unsigned char> save() const {
        std::size_t size = 0;
        check(sllm_session_state_size(get(), &size));
        std::vector<unsigned char> state(size);
        check(sllm_session_save(get(), state.data(), size, &size));
        return state;
    }
    void load(const std::vector<unsigned char> &state) { check(sllm_session_load(get(), state.data(), state.size())); }
    void set_sparsity(std::int32_t level) { check(sllm_session_set_sparsity(get(), level)); }
    void set_dial(const sllm_dial &dial) { check(sllm_session_set_dial(get(), &dial)); }
    /* Returns the expected seconds of a token. */
    double set_pace(double seconds_per_token, float max_loss = -1) {
        double expected = 0;
        check(sllm_session_set_pace(get(), seconds_per_token, max_loss, &expected));
        return expected;
    }
    sllm_dial dial() const {
        auto dial = detail::sized<sllm_dial>();
        check(sllm_session_get_dial(get(), &dial));
        return dial;
    }
    sllm_stats stats() const {
        auto stats = detail::sized<sllm_stats>();
        check(sllm_session_get_stats(get(), &stats));
        return stats;
    }
    void reset_stats() { check(sllm_session_reset_stats(get())); }
    sllm_threads threads() const {
        auto threads = detail::sized<sllm_threads>();
        check(sllm_session_get_threads(get(), &threads));
        return threads;
    }
    sllm_session *get() const noexcept { return handle_.get(); }

private:
    explicit Session(sllm_session *session) : handle_(session) {}
    detail::Handle<sllm_session, sllm_session_free> handle_;
};

class Tokenizer {
public:
    explicit Tokenizer(const Model &model) {
        sllm_tokenizer *tokenizer = nullptr;
        check(sllm_tokenizer_new(model.get(), &tokenizer));
        handle_.reset(tokenizer);
    }
    /* `flags` are SLLM_TOKENIZE_... */
    std::vector<std::uint32_t> tokenize(std::string_view text, std::int32_t flags = 0) const {
        const char *from = text.data() ? text.data() : "";
        /* Nearly every text has fewer tokens than bytes; normalizing can give it more, and then the count is asked for. */
        std::vector<std::uint32_t> tokens(text.size() + 16);
        std::size_t count = 0;
        auto status = sllm_tokenizer_tokenize(get(), from, text.size(), flags, tokens.data(), tokens.size(), &count);
        if (status == SLLM_STATUS_BUFFER_TOO_SMALL) {
            check(sllm_tokenizer_tokenize(get(), from, text.size(), flags, nullptr, 0, &count));
            tokens.resize(count);
            status = sllm_tokenizer_tokenize(get(), from, text.size(), flags, tokens.data(), tokens.size(), &count);
        }
        check(status);
        tokens.resize(count);
        return tokens;
    }
    std::string detokenize(const std::vector<std::uint32_t> &tokens) const {
        if (tokens.empty()) return std::string();
        std::size_t length = 0;
        check(sllm_tokenizer_detokenize(get(), tokens.data(), tokens.size(), nullptr, 0, &length));
        std::string text(length, '\0');
        /* A string has room for a NUL after its length. */
        check(sllm_tokenizer_detokenize(get(), tokens.data(), tokens.size(), &text[0], length + 1, &length));
        return text;
    }
    /* A token's text for people, also that of special tokens. */
    std::string token_text(std::uint32_t token) const {
        std::size_t length = 0;
        check(sllm_tokenizer_token_text(get(), token, nullptr, 0, &length));
        std::string text(length, '\0');
        check(sllm_tokenizer_token_text(get(), token, &text[0], length + 1, &length));
        return text;
    }
    sllm_tokenizer *get() const noexcept { return handle_.get(); }

private:
    detail::Handle<sllm_tokenizer, sllm_tokenizer_free> handle_;
};

/* Options of an answer with all defaults, for the caller to change: stop strings, biases, a grammar. */
inline sllm_generate_options generate_options() {
    sllm_generate_options options;
    check(sllm_generate_options_defaults(&options, sizeof options));
    return options;
}

/* What answers may be, for the `grammar` of generate_options; `kind` is SLLM_GRAMMAR_... */
class Grammar {
public:
    Grammar(const Tokenizer &tokenizer, std::int32_t kind, std::string_view text) {
        sllm_grammar *grammar = nullptr;
        check(sllm_grammar_new(tokenizer.get(), kind, text.data() ? text.data() : "", text.size(), &grammar));
        handle_.reset(grammar);
    }
    sllm_grammar *get() const noexcept { return handle_.get(); }

private:
    detail::Handle<sllm_grammar, sllm_grammar_free> handle_;
};

/* One token of an answer, valid during the callback. */
struct Token {
    std::uint32_t id;
    std::string_view text;  /* complete UTF-8, often empty */
    std::string_view bytes; /* the token's own bytes */
    double tokens_per_second;
    double density;
    std::uint64_t index; /* in the answer, from 0 */
    bool thought;        /* within a block in which the model thinks before it answers */
    double logprob;      /* with `logprobs` of the options: the logarithm of its probability, */
    const sllm_logprob *top; /* and the likeliest tokens with theirs, likeliest first */
    std::size_t top_count;
};

namespace detail {
/* Calls a C++ function from the C callback; an exception is caught there and thrown again after the C call. */
template <typename F> class Bridge {
public:
    explicit Bridge(F &function) : function_(function) {}
    sllm_generate_options options(std::uint32_t max_tokens) {
        auto options = generate_options();
        if (max_tokens) options.max_tokens = max_tokens;
        return this->options(options);
    }
    /* Everything but the callback stays as it is. */
    sllm_generate_options options(sllm_generate_options options) {
        options.on_token = call;
        options.user = this;
        return options;
    }
    void finish(std::int32_t status) {
        if (thrown_) std::rethrow_exception(thrown_);
        check(status);
    }

private:
    static std::int32_t call(void *user, const sllm_token *token) noexcept {
        auto *self = static_cast<Bridge *>(user);
        try {
            const auto *bytes = reinterpret_cast<const char *>(token->bytes);
            const Token passed{token->id, {token->text, token->text_length}, {bytes, token->bytes_length},
                               token->tokens_per_second, token->density, token->index, token->thought != 0,
                               token->logprob, token->top, token->top_count};
            return self->function_(passed) ? 0 : 1;
        } catch (...) {
            self->thrown_ = std::current_exception();
            return 1;
        }
    }
    F &function_;
    std::exception_ptr thrown_;
};
} // namespace detail

/* Continues a text; `on_token(const Token &)` returns whether to go on. */
template <typename F>
sllm_generation generate(Session &session, const Tokenizer &tokenizer, Sampler &sampler, std::string_view prompt,
                         F &&on_token, std::uint32_t max_tokens = 0) {
    detail::Bridge<std::remove_reference_t<F>> bridge(on_token);
    auto options = bridge.options(max_tokens);
    auto result = detail::sized<sllm_generation>();
    bridge.finish(sllm_generate(session.get(), tokenizer.get(), sampler.get(), prompt.data() ? prompt.data() : "",
                                prompt.size(), &options, &result));
    return result;
}

/* The same with all options; their callback is `on_token`. */
template <typename F>
sllm_generation generate(Session &session, const Tokenizer &tokenizer, Sampler &sampler, std::string_view prompt,
                         F &&on_token, const sllm_generate_options &all) {
    detail::Bridge<std::remove_reference_t<F>> bridge(on_token);
    auto options = bridge.options(all);
    auto result = detail::sized<sllm_generation>();
    bridge.finish(sllm_generate(session.get(), tokenizer.get(), sampler.get(), prompt.data() ? prompt.data() : "",
                                prompt.size(), &options, &result));
    return result;
}

class Chat {
public:
    explicit Chat(const Tokenizer &tokenizer) {
        sllm_chat *chat = nullptr;
        check(sllm_chat_new(tokenizer.get(), &chat));
        handle_.reset(chat);
    }
    void add(const std::string &role, const std::string &content) {
        check(sllm_chat_add(get(), detail::c_text(role), detail::c_text(content)));
    }
    std::size_t count() const {
        std::size_t count = 0;
        check(sllm_chat_count(get(), &count));
        return count;
    }
    /* Role and content. */
    std::pair<std::string, std::string> message(std::size_t index) const {
        const char *role = nullptr, *content = nullptr;
        std::size_t role_length = 0, content_length = 0;
        check(sllm_chat_message(get(), index, &role, &role_length, &content, &content_length));
        return {std::string(role, role_length), std::string(content, content_length)};
    }
    /* With all its fields, as JSON for add_json. */
    std::string message_json(std::size_t index) const {
        const char *json = nullptr;
        std::size_t length = 0;
        check(sllm_chat_message_json(get(), index, &json, &length));
        return std::string(json, length);
    }
    void truncate(std::size_t count) { check(sllm_chat_truncate(get(), count)); }
    void clear() { check(sllm_chat_clear(get())); }
    Chat fork() const {
        sllm_chat *chat = nullptr;
        check(sllm_chat_fork(get(), &chat));
        return Chat(chat);
    }
    std::string render() const {
        std::size_t length = 0;
        check(sllm_chat_render(get(), nullptr, 0, &length));
        std::string text(length, '\0');
        check(sllm_chat_render(get(), &text[0], length + 1, &length));
        return text;
    }
    /* Answers; `on_token(const Token &)` returns whether to go on. */
    template <typename F>
    sllm_generation generate(Session &session, Sampler &sampler, F &&on_token, std::uint32_t max_tokens = 0) {
        detail::Bridge<std::remove_reference_t<F>> bridge(on_token);
        auto options = bridge.options(max_tokens);
        auto result = detail::sized<sllm_generation>();
        bridge.finish(sllm_chat_generate(get(), session.get(), sampler.get(), &options, &result));
        return result;
    }
    /* The same with all options; their callback is `on_token`. */
    template <typename F>
    sllm_generation generate(Session &session, Sampler &sampler, F &&on_token, const sllm_generate_options &all) {
        detail::Bridge<std::remove_reference_t<F>> bridge(on_token);
        auto options = bridge.options(all);
        auto result = detail::sized<sllm_generation>();
        bridge.finish(sllm_chat_generate(get(), session.get(), sampler.get(), &options, &result));
        return result;
    }
    /* A variable of the template, in JSON: "tools", "documents", "enable_thinking". */
    void set_variable(const std::string &name, const std::string &json) {
        check(sllm_chat_set_variable(get(), detail::c_text(name), detail::c_text(json)));
    }
    void remove_variable(const std::string &name) {
        check(sllm_chat_set_variable(get(), detail::c_text(name), nullptr));
    }
    /* A message with all its fields, a JSON object. */
    void add_json(const std::string &message) { check(sllm_chat_add_json(get(), detail::c_text(message))); }
    sllm_chat *get() const noexcept { return handle_.get(); }

private:
    explicit Chat(sllm_chat *chat) : handle_(chat) {}
    detail::Handle<sllm_chat, sllm_chat_free> handle_;
};

} // namespace shadowllm

#endif
