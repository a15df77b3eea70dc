/* Text: tokens and back, bytes, answers, conversations, callbacks. */
#include "suite.h"

static const char *const SAMPLES[] = {"Plain words, and more.", "na\xc3\xafve caf\xc3\xa9", "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e",
                                      "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7 family", " leading\n\n  and trailing "};
static const char *const BAD[] = {"\xff", "a\xc3", "\xed\xa0\x80", "\xf5\x80\x80\x80", "ok \x80 no"};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static void there_and_back(const sllm_tokenizer *tokenizer, const char *sample) {
    uint32_t ids[128], filler = 0x5a5a5a5a;
    char text[512];
    uint8_t bytes[64];
    size_t count = 0, length = 7, all = 0, i, n;
    OK(sllm_tokenizer_tokenize(tokenizer, sample, SLLM_NUL_TERMINATED, 0, NULL, 0, &count));
    CHECK(count > 0 && count < COUNT(ids));
    memset(ids, 0x5a, sizeof ids);
    STATUS(SLLM_STATUS_BUFFER_TOO_SMALL,
           sllm_tokenizer_tokenize(tokenizer, sample, strlen(sample), 0, ids, count - 1, &length));
    CHECK(length == 7 && ids[0] == filler);
    OK(sllm_tokenizer_tokenize(tokenizer, sample, strlen(sample), 0, ids, count, &n));
    CHECK(n == count && ids[count] == filler);
    OK(sllm_tokenizer_detokenize(tokenizer, ids, count, NULL, 0, &length));
    memset(text, 0x5a, sizeof text);
    STATUS(SLLM_STATUS_BUFFER_TOO_SMALL, sllm_tokenizer_detokenize(tokenizer, ids, count, text, length, &n));
    CHECK(text[0] == 0x5a);
    OK(sllm_tokenizer_detokenize(tokenizer, ids, count, text, length + 1, &n));
    CHECK(n == length && strcmp(text, sample) == 0 && text[length + 1] == 0x5a);
    for (i = 0; i < count; i++) {
        OK(sllm_tokenizer_token_bytes(tokenizer, ids[i], bytes, sizeof bytes, &n));
        CHECK(memcmp(sample + all, bytes, n) == 0);
        if (n > 0) STATUS(SLLM_STATUS_BUFFER_TOO_SMALL, sllm_tokenizer_token_bytes(tokenizer, ids[i], bytes, n - 1, &n));
        all += n;
    }
    CHECK(all == strlen(sample));
}

/* The text of a control token is text, unless the caller sets SLLM_TOKENIZE_CONTROL. */
static void control_tokens(const sllm_tokenizer *tokenizer) {
    static const char *const text = "a</s>b";
    uint32_t ids[16], control[16];
    size_t count = 0, with = 0, n = 7, i, found = 0;
    char back[64];
    OK(sllm_tokenizer_tokenize(tokenizer, "</s>", 4, SLLM_TOKENIZE_CONTROL, control, COUNT(control), &n));
    CHECK(n == 1);
    OK(sllm_tokenizer_tokenize(tokenizer, text, SLLM_NUL_TERMINATED, 0, ids, COUNT(ids), &count));
    OK(sllm_tokenizer_detokenize(tokenizer, ids, count, back, sizeof back, &n));
    CHECK(strcmp(back, text) == 0);
    for (i = 0; i < count; i++) CHECK(ids[i] != control[0]);
    OK(sllm_tokenizer_tokenize(tokenizer, text, SLLM_NUL_TERMINATED, SLLM_TOKENIZE_CONTROL, ids, COUNT(ids), &with));
    for (i = 0; i < with; i++) found += ids[i] == control[0];
    CHECK(with < count && found == 1);
    n = 7;
    INVALID(sllm_tokenizer_tokenize(tokenizer, text, SLLM_NUL_TERMINATED, 4, ids, COUNT(ids), &n));
    CHECK(n == 7);
}

struct answer {
    char text[4096], bytes[4096];
    size_t text_length, bytes_length;
    uint64_t tokens, stop_after;
    sllm_session *session;
};

static int32_t take(void *user, const sllm_token *token) {
    struct answer *answer = user;
    CHECK(token->struct_size == sizeof *token && token->text[token->text_length] == 0 && token->id < info.vocab);
    CHECK(token->density >= 0 && token->density <= 1 && token->tokens_per_second >= 0);
    memcpy(answer->text + answer->text_length, token->text, token->text_length + 1);
    answer->text_length += token->text_length;
    memcpy(answer->bytes + answer->bytes_length, token->bytes, token->bytes_length);
    answer->bytes_length += token->bytes_length;
    answer->tokens = token->index + 1;
    if (answer->session) {
        /* From a callback of the call that uses the session. */
        size_t position = 7;
        STATUS(SLLM_STATUS_BUSY, sllm_session_position(answer->session, &position));
        STATUS(SLLM_STATUS_BUSY, sllm_session_decode(answer->session, 1));
        STATUS(SLLM_STATUS_BUSY, sllm_session_free(&answer->session));
        CHECK(position == 7 && answer->session != NULL);
    }
    return answer->stop_after && answer->tokens >= answer->stop_after;
}

static int32_t cancel_soon(void *user, const sllm_token *token) {
    if (token->index == 2) OK(sllm_session_cancel(user));
    return 0;
}

static int32_t free_tokenizer(void *user, const sllm_token *token) {
    (void)token;
    OK(sllm_tokenizer_free(user));
    return 0;
}

struct likely {
    size_t tokens, listed;
};

static int32_t add_likely(void *user, const sllm_token *token) {
    struct likely *likely = user;
    size_t i;
    likely->tokens += token->bytes_length > 0;
    likely->listed += token->top_count;
    CHECK(token->logprob <= 0 && token->thought == 0 && token->reserved == 0);
    for (i = 1; i < token->top_count; i++) CHECK(token->top[i].logprob <= token->top[i - 1].logprob);
    if (token->top_count) CHECK(token->top[0].token == token->id && token->top[0].logprob == (float)token->logprob);
    return 0;
}

/* Stop strings across tokens, biases, log-probabilities, and what is refused. */
static void controls(const sllm_tokenizer *tokenizer) {
    sllm_session *session = short_session(128, 1);
    sllm_generate_options options;
    sllm_generation result = {0};
    struct answer *free_answer = calloc(1, sizeof *free_answer), *answer = calloc(1, sizeof *answer);
    struct likely likely = {0};
    const char *stop[2] = {"never there", NULL};
    char middle[9] = {0};
    sllm_bias bias = {11, 1000};
    OK(sllm_generate_options_defaults(&options, sizeof options));
    options.max_tokens = 24;
    options.on_token = take;
    options.user = free_answer;
    result.struct_size = sizeof result;
    OK(sllm_generate(session, tokenizer, NULL, "The jury said", 13, &options, &result));
    CHECK(result.stop_string == -1 && free_answer->text_length > 20);
    memcpy(middle, free_answer->text + 8, 8);
    stop[1] = middle;
    options.stop = stop;
    options.stop_count = 2;
    options.user = answer;
    OK(sllm_session_rewind(session, 0));
    OK(sllm_generate(session, tokenizer, NULL, "The jury said", 13, &options, &result));
    CHECK(result.stop == SLLM_STOP_STRING && result.stop_string == 1);
    CHECK(answer->text_length == (size_t)(strstr(free_answer->text, middle) - free_answer->text));
    CHECK(memcmp(answer->text, free_answer->text, answer->text_length) == 0);
    stop[1] = "";
    INVALID(sllm_generate(session, tokenizer, NULL, " a", 2, &options, &result));
    stop[1] = "\xff";
    STATUS(SLLM_STATUS_INVALID_UTF8, sllm_generate(session, tokenizer, NULL, " a", 2, &options, &result));
    stop[1] = NULL;
    INVALID(sllm_generate(session, tokenizer, NULL, " a", 2, &options, &result));
    options.stop_count = 0;
    options.logprobs = 4;
    options.on_token = add_likely;
    options.user = &likely;
    options.max_tokens = 5;
    OK(sllm_session_rewind(session, 0));
    OK(sllm_generate(session, tokenizer, NULL, "The jury said", 13, &options, &result));
    CHECK(likely.tokens == 5 && likely.listed == 20);
    options.logprobs = 0;
    options.bias = &bias;
    options.bias_count = 1;
    options.on_token = take;
    options.user = answer;
    answer->tokens = answer->text_length = answer->bytes_length = 0;
    OK(sllm_session_rewind(session, 0));
    OK(sllm_generate(session, tokenizer, NULL, "The jury said", 13, &options, &result));
    {
        const uint32_t *ids = NULL;
        size_t count = 0;
        OK(sllm_session_tokens(session, &ids, &count));
        CHECK(ids[count - 1] == 11 && ids[count - 2] == 11);
    }
    bias.token = info.vocab;
    INVALID(sllm_generate(session, tokenizer, NULL, " a", 2, &options, &result));
    OK(sllm_session_free(&session));
    free(answer);
    free(free_answer);
}

/* A token that no repetition goes across. */
static int is_break(const sllm_tokenizer *tokenizer, uint32_t id) {
    uint8_t bytes[64];
    size_t n = 0, i;
    OK(sllm_tokenizer_token_bytes(tokenizer, id, bytes, sizeof bytes, &n));
    for (i = 0; i < n; i++)
        if (memchr("\n:\"*", bytes[i], 4)) return 1;
    return 0;
}

/* Whether a run of `length` tokens comes again in those that the session has read. */
static int repeats(const sllm_session *session, const sllm_tokenizer *tokenizer, size_t length) {
    const uint32_t *ids = NULL;
    size_t count = 0, breaks, i, k;
    OK(sllm_session_tokens(session, &ids, &count));
    for (i = 0; i + length <= count; i++) {
        for (breaks = k = 0; k < length; k++) breaks += is_break(tokenizer, ids[i + k]);
        for (k = i + 1; breaks == 0 && k + length <= count; k++)
            if (memcmp(ids + i, ids + k, length * sizeof *ids) == 0) return 1;
    }
    return 0;
}

/* The penalty of repetitions (DRY): each of its options changes the answer. */
static void repetitions(const sllm_tokenizer *tokenizer) {
    static const struct {
        float multiplier, base;
        uint32_t allowed_length, last;
        int is_free; /* as without a penalty */
    } rows[] = {{0, 1.75f, 2, 0, 1},
                {1000, 1.75f, 2, 0, 0},
                {1000, 1.75f, 40, 0, 1}, /* longer than the answer's repetitions */
                {1000, 1.75f, 2, 3, 1},  /* in the last three tokens */
                {1e-3f, 1, 2, 0, 1},     /* too little */
                {1e-3f, 1e6f, 2, 0, 0}}; /* too little at the beginning of a repetition */
    sllm_session *session = short_session(128, 1);
    struct answer *answers = calloc(COUNT(rows), sizeof *answers);
    size_t i;
    for (i = 0; i < COUNT(rows); i++) {
        sllm_generate_options options;
        OK(sllm_generate_options_defaults(&options, sizeof options));
        options.max_tokens = 64;
        options.on_token = take;
        options.user = &answers[i];
        options.dry_multiplier = rows[i].multiplier;
        options.dry_base = rows[i].base;
        options.dry_allowed_length = rows[i].allowed_length;
        options.dry_last = rows[i].last;
        OK(sllm_session_rewind(session, 0));
        OK(sllm_generate(session, tokenizer, NULL, "The jury said", 13, &options, NULL));
        CHECK((strcmp(answers[i].text, answers[0].text) == 0) == rows[i].is_free);
        if (i < 2) CHECK(repeats(session, tokenizer, 3) == (i == 0));
    }
    OK(sllm_session_free(&session));
    free(answers);
}

/* Answers that a grammar makes; rules that cannot be followed are refused by a message that says why. */
static void grammars(const sllm_tokenizer *tokenizer) {
    static const char *const schema = "{\"type\":\"object\",\"properties\":{\"name\":{\"enum\":[\"Ann\",\"Bob\"]},"
                                      "\"old\":{\"type\":\"boolean\"}},\"required\":[\"name\",\"old\"],"
                                      "\"additionalProperties\":false}";
    static const struct {
        int32_t kind;
        const char *text, *said;
    } bad[] = {{SLLM_GRAMMAR_JSON_SCHEMA, "{", "JSON schema"}, {SLLM_GRAMMAR_JSON_SCHEMA, "[]", "object"},
               {SLLM_GRAMMAR_REGEX, "(", "regular expression"}, {SLLM_GRAMMAR_LARK, "start: nothing", "grammar"},
               {SLLM_GRAMMAR_LARK, "", "empty"}, {9, "a", "SLLM_GRAMMAR_"}};
    sllm_session *session = short_session(128, 1);
    sllm_grammar *grammar = NULL, *none = NULL;
    sllm_generate_options options;
    sllm_generation result = {0};
    struct answer *answer = calloc(1, sizeof *answer);
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        INVALID(sllm_grammar_new(tokenizer, bad[i].kind, bad[i].text, strlen(bad[i].text), &none));
        CHECK(none == NULL && strstr(sllm_last_error_message(), bad[i].said) != NULL);
    }
    OK(sllm_generate_options_defaults(&options, sizeof options));
    options.on_token = take;
    options.user = answer;
    result.struct_size = sizeof result;
    OK(sllm_grammar_new(tokenizer, SLLM_GRAMMAR_JSON_SCHEMA, schema, SLLM_NUL_TERMINATED, &grammar));
    options.grammar = grammar;
    for (i = 0; i < 3; i++) {
        const char *text = answer->text;
        answer->tokens = answer->text_length = answer->bytes_length = 0;
        OK(sllm_session_rewind(session, 0));
        OK(sllm_generate(session, tokenizer, NULL, "The jury said", 13, &options, &result));
        CHECK(strncmp(text, "{\"name\": \"", 10) == 0 && (strstr(text, "\"Ann\", \"old\": ") || strstr(text, "\"Bob\", \"old\": ")));
        CHECK(strstr(text, "true}") || strstr(text, "false}"));
        CHECK(result.stop == SLLM_STOP_END && result.forced_tokens > 5 && result.forced_tokens < result.generated_tokens);
        CHECK(answer->text_length == answer->bytes_length);
    }
    OK(sllm_grammar_free(&grammar));
    CHECK(grammar == NULL);
    OK(sllm_grammar_new(tokenizer, SLLM_GRAMMAR_REGEX, "[0-9]{4}", SLLM_NUL_TERMINATED, &grammar));
    options.grammar = grammar;
    answer->tokens = answer->text_length = answer->bytes_length = 0;
    OK(sllm_generate(session, tokenizer, NULL, " in", 3, &options, &result));
    CHECK(answer->text_length == 4 && strspn(answer->text, "0123456789") == 4);
    OK(sllm_grammar_free(&grammar));
    OK(sllm_session_free(&session));
    free(answer);
}

void test_text(void) {
    sllm_tokenizer *tokenizer = NULL;
    sllm_session *session = short_session(128, 1);
    sllm_sampler *sampler = NULL;
    sllm_generate_options options;
    sllm_generation result = {0};
    struct answer *answer = calloc(1, sizeof *answer);
    uint32_t id = info.vocab;
    char text[8];
    size_t i, n = 7;
    OK(sllm_tokenizer_new(model, &tokenizer));
    for (i = 0; i < COUNT(SAMPLES); i++) there_and_back(tokenizer, SAMPLES[i]);
    for (i = 0; i < COUNT(BAD); i++) {
        STATUS(SLLM_STATUS_INVALID_UTF8, sllm_tokenizer_tokenize(tokenizer, BAD[i], SLLM_NUL_TERMINATED, 0, NULL, 0, &n));
        STATUS(SLLM_STATUS_INVALID_UTF8,
               sllm_generate(session, tokenizer, NULL, BAD[i], SLLM_NUL_TERMINATED, NULL, NULL));
    }
    control_tokens(tokenizer);
    controls(tokenizer);
    repetitions(tokenizer);
    grammars(tokenizer);
    STATUS(SLLM_STATUS_TOKEN_OUT_OF_RANGE, sllm_tokenizer_detokenize(tokenizer, &id, 1, text, sizeof text, &n));
    STATUS(SLLM_STATUS_TOKEN_OUT_OF_RANGE, sllm_tokenizer_token_bytes(tokenizer, id, NULL, 0, &n));
    CHECK(n == 7);
    OK(sllm_tokenizer_detokenize(tokenizer, &id, 0, text, 1, &n));
    CHECK(n == 0 && text[0] == 0);
    OK(sllm_generate_options_defaults(&options, sizeof options));
    CHECK(options.max_tokens == 256);
    options.max_tokens = 24;
    options.on_token = take;
    options.user = answer;
    answer->session = session;
    result.struct_size = sizeof result;
    OK(sllm_sampler_new(NULL, &sampler));
    OK(sllm_generate(session, tokenizer, sampler, "The jury said", 13, &options, &result));
    CHECK(result.generated_tokens <= 24 && result.prompt_tokens > 0 && result.first_token_seconds > 0);
    CHECK(result.stop == SLLM_STOP_MAX_TOKENS || result.stop == SLLM_STOP_END);
    CHECK(answer->text_length == answer->bytes_length && memcmp(answer->text, answer->bytes, answer->text_length) == 0);
    /* After that text, until the callback stops. */
    answer->stop_after = 3;
    answer->tokens = answer->text_length = answer->bytes_length = 0;
    OK(sllm_generate(session, tokenizer, NULL, " and then", SLLM_NUL_TERMINATED, &options, &result));
    CHECK(result.stop == SLLM_STOP_CALLBACK && result.generated_tokens == 3 && answer->tokens == 3);
    /* To the end of the context. */
    answer->stop_after = 0;
    answer->tokens = answer->text_length = answer->bytes_length = 0;
    options.max_tokens = 1000;
    OK(sllm_generate(session, tokenizer, sampler, " and", 4, &options, &result));
    CHECK(result.stop == SLLM_STOP_CONTEXT_FULL || result.stop == SLLM_STOP_END);
    result.stop = 77;
    if (answer->tokens > 60)
        STATUS(SLLM_STATUS_CONTEXT_FULL, sllm_generate(session, tokenizer, sampler, " and more words than fit", 24, &options, &result));
    INVALID(sllm_generate(session, tokenizer, sampler, "", 0, &options, &result));
    CHECK(result.stop == 77);
    /* Cancelled from a callback, then used again. */
    OK(sllm_session_rewind(session, 0));
    options.on_token = cancel_soon;
    options.user = session;
    STATUS(SLLM_STATUS_CANCELLED, sllm_generate(session, tokenizer, sampler, "The", 3, &options, &result));
    CHECK(result.stop == 77);
    options.on_token = NULL;
    options.max_tokens = 2;
    OK(sllm_generate(session, tokenizer, sampler, " more", 5, &options, NULL));
    /* Freed by its own callback. */
    options.on_token = free_tokenizer;
    options.user = &tokenizer;
    options.max_tokens = 6;
    OK(sllm_generate(session, tokenizer, sampler, " more", 5, &options, NULL));
    CHECK(tokenizer == NULL);
    OK(sllm_tokenizer_free(&tokenizer));
    OK(sllm_sampler_free(&sampler));
    OK(sllm_session_free(&session));
    free(answer);
}

/* Messages with all their fields, read back and added to another chat, which makes the same prompt. */
static void whole_messages(sllm_chat *chat) {
    static const char *const given[] = {
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"na\xc3\xafve\"}]}",
        "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1.5}}}]}",
        "{\"role\":\"assistant\",\"content\":null,\"more\":\"a\\u0000b\"}",
        "{\"role\":\"tool\",\"content\":\"42\\n\",\"name\":\"f\",\"tool_call_id\":\"1\"}"};
    sllm_chat *other = NULL;
    const char *json = NULL;
    char prompt[512], again[512];
    size_t i, n = 7;
    INVALID(sllm_chat_message_json(chat, 0, &json, &n));
    CHECK(json == NULL && n == 7);
    OK(sllm_chat_fork(chat, &other));
    for (i = 0; i < COUNT(given); i++) {
        OK(sllm_chat_add_json(chat, given[i]));
        OK(sllm_chat_message_json(chat, i, &json, &n));
        CHECK(n == strlen(given[i]) && strcmp(json, given[i]) == 0);
        OK(sllm_chat_add_json(other, json));
    }
    INVALID(sllm_chat_message_json(chat, i, &json, &n));
    OK(sllm_chat_render(chat, prompt, sizeof prompt, &n));
    OK(sllm_chat_render(other, again, sizeof again, &n));
    CHECK(strcmp(prompt, again) == 0 && strstr(prompt, "na\xc3\xafve") != NULL);
    OK(sllm_chat_clear(chat));
    OK(sllm_chat_add(chat, "user", "\"a\""));
    OK(sllm_chat_message_json(chat, 0, &json, &n));
    CHECK(n == strlen(json) && strcmp(json, "{\"role\":\"user\",\"content\":\"\\\"a\\\"\"}") == 0);
    OK(sllm_chat_clear(chat));
    OK(sllm_chat_free(&other));
}

/* Variables of the template, messages with more than a text, and tool calls in answers. */
static void tools(sllm_chat *chat) {
    static const char *const bad[] = {"", "[]", "{}", "{\"role\": 3}", "{"};
    char text[512];
    const char *role = NULL, *content = NULL;
    size_t i, n = 7, role_length = 0, length = 0;
    for (i = 0; i < COUNT(bad); i++) INVALID(sllm_chat_add_json(chat, bad[i]));
    INVALID(sllm_chat_set_variable(chat, "messages", "[]"));
    INVALID(sllm_chat_set_variable(chat, "a b", "1"));
    INVALID(sllm_chat_set_variable(chat, "tools", "[1"));
    OK(sllm_chat_set_variable(chat, "tools", "[]"));
    OK(sllm_chat_set_variable(chat, "nothing", NULL));
    OK(sllm_chat_add_json(chat, "{\"role\": \"tool\", \"content\": \"42\", \"name\": \"f\"}"));
    OK(sllm_chat_message(chat, 0, &role, &role_length, &content, &length));
    CHECK(role_length == 4 && memcmp(role, "tool", 4) == 0 && length == 2 && memcmp(content, "42", 2) == 0);
    OK(sllm_chat_set_variable(chat, "add_generation_prompt", "false"));
    OK(sllm_chat_render(chat, text, sizeof text, &n));
    CHECK(strcmp(text, "tool: 42\n") == 0);
    OK(sllm_chat_set_variable(chat, "add_generation_prompt", NULL));
    OK(sllm_chat_render(chat, text, sizeof text, &n));
    CHECK(strcmp(text, "tool: 42\nassistant:") == 0);
    OK(sllm_chat_set_variable(chat, "tools", NULL));
    OK(sllm_chat_clear(chat));
    OK(sllm_parse_tool_calls("<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call>", SLLM_NUL_TERMINATED,
                             text, sizeof text, &n));
    CHECK(strcmp(text, "{\"text\":\"\",\"calls\":[{\"name\":\"f\",\"arguments\":{\"x\":1}}]}") == 0 && n == strlen(text));
    STATUS(SLLM_STATUS_BUFFER_TOO_SMALL, sllm_parse_tool_calls("no calls", 8, text, 9, &n));
    OK(sllm_parse_tool_calls("no calls", 8, text, sizeof text, &n));
    CHECK(strcmp(text, "{\"text\":\"no calls\",\"calls\":[]}") == 0);
}

/* Messages are read back, removed and forked; a fork with a fork of the session reads only the new tokens. */
static void messages(sllm_chat *chat, sllm_session *session, const char *last) {
    sllm_chat *fork = NULL;
    sllm_session *other = NULL;
    sllm_generate_options options;
    sllm_generation result = {0};
    const char *role = NULL, *content = NULL;
    size_t count = 0, after = 0, role_length = 7, length = 7;
    OK(sllm_chat_count(chat, &count));
    CHECK(count >= 2);
    OK(sllm_chat_message(chat, 0, &role, &role_length, &content, &length));
    CHECK(role_length == 4 && memcmp(role, "user", 4) == 0 && length == 18 && memcmp(content, "Who was the mayor?", 18) == 0);
    OK(sllm_chat_message(chat, count - 1, &role, &role_length, &content, &length));
    CHECK(role_length == 9 && memcmp(role, "assistant", 9) == 0 && length == strlen(last) && memcmp(content, last, length) == 0);
    role = content = NULL;
    length = 7;
    INVALID(sllm_chat_message(chat, count, &role, &role_length, &content, &length));
    CHECK(role == NULL && content == NULL && length == 7);
    INVALID(sllm_chat_truncate(chat, count + 1));
    OK(sllm_chat_fork(chat, &fork));
    OK(sllm_session_fork(session, &other));
    OK(sllm_chat_add(fork, "user", "Why?"));
    OK(sllm_generate_options_defaults(&options, sizeof options));
    options.max_tokens = 2;
    result.struct_size = sizeof result;
    OK(sllm_chat_generate(fork, other, NULL, &options, &result));
    OK(sllm_session_position(session, &length));
    CHECK(length > 40 && result.prompt_tokens < 40);
    OK(sllm_chat_count(fork, &after));
    CHECK(after == count + 2);
    OK(sllm_chat_truncate(fork, count));
    OK(sllm_chat_count(fork, &after));
    CHECK(after == count);
    OK(sllm_chat_count(chat, &after));
    CHECK(after == count);
    OK(sllm_session_free(&other));
    OK(sllm_chat_free(&fork));
}

void test_chat(void) {
    sllm_model *talker = NULL;
    sllm_tokenizer *tokenizer = NULL, *silent = NULL;
    sllm_session *session = NULL, *loaded = NULL, *fork = NULL, *other = short_session(64, 1);
    sllm_chat *chat = NULL;
    sllm_generate_options options;
    sllm_generation first = {0}, second = {0}, again = {0};
    char text[2048];
    struct answer *answer = calloc(1, sizeof *answer);
    size_t length = 7, n, i;
    void *state;
    OK(sllm_tokenizer_new(model, &silent));
    STATUS(SLLM_STATUS_UNSUPPORTED, sllm_chat_new(silent, &chat));
    CHECK(chat == NULL);
    OK(sllm_model_open(chat_path, NULL, &talker));
    OK(sllm_session_new(talker, NULL, &session));
    OK(sllm_session_new(talker, NULL, &loaded));
    OK(sllm_tokenizer_new(talker, &tokenizer));
    OK(sllm_model_free(&talker));
    OK(sllm_chat_new(tokenizer, &chat));
    OK(sllm_tokenizer_free(&tokenizer));
    OK(sllm_generate_options_defaults(&options, sizeof options));
    options.max_tokens = 8;
    options.on_token = take;
    options.user = answer;
    first.struct_size = second.struct_size = again.struct_size = sizeof first;
    INVALID(sllm_chat_generate(chat, session, NULL, &options, &first));
    INVALID(sllm_chat_render(chat, text, sizeof text, &length));
    INVALID(sllm_chat_add(chat, "", "x"));
    for (i = 0; i < COUNT(BAD); i++) {
        STATUS(SLLM_STATUS_INVALID_UTF8, sllm_chat_add(chat, "user", BAD[i]));
        STATUS(SLLM_STATUS_INVALID_UTF8, sllm_chat_add(chat, BAD[i], "x"));
    }
    CHECK(length == 7);
    tools(chat);
    whole_messages(chat);
    OK(sllm_chat_add(chat, "user", "Who was the mayor?"));
    OK(sllm_chat_render(chat, NULL, 0, &length));
    memset(text, 0x5a, sizeof text);
    STATUS(SLLM_STATUS_BUFFER_TOO_SMALL, sllm_chat_render(chat, text, length, &n));
    CHECK(text[0] == 0x5a);
    OK(sllm_chat_render(chat, text, length + 1, &n));
    CHECK(strstr(text, "Who was the mayor?") != NULL && strlen(text) == length);
    INVALID(sllm_chat_generate(chat, other, NULL, &options, &first)); /* another model's session */
    OK(sllm_chat_generate(chat, session, NULL, &options, &first));
    OK(sllm_chat_render(chat, text, sizeof text, &n));
    CHECK(strstr(text, answer->text) != NULL);
    OK(sllm_chat_add(chat, "user", "And then?"));
    OK(sllm_chat_generate(chat, session, NULL, &options, &second));
    /* The same conversation, read from the beginning, because the session was used for other things. */
    OK(sllm_chat_clear(chat));
    OK(sllm_session_rewind(session, 0));
    OK(sllm_chat_add(chat, "user", "Who was the mayor?"));
    OK(sllm_chat_generate(chat, session, NULL, &options, &again));
    CHECK(again.prompt_tokens == first.prompt_tokens && again.generated_tokens == first.generated_tokens);
    OK(sllm_chat_add(chat, "user", "And then?"));
    OK(sllm_session_rewind(session, 1));
    answer->text_length = answer->bytes_length = 0;
    OK(sllm_chat_generate(chat, session, NULL, &options, &again));
    CHECK(again.prompt_tokens > second.prompt_tokens && again.generated_tokens == second.generated_tokens);
    messages(chat, session, answer->text);
    /* Neither a fork nor a loaded session reads tokens again that it has read, whichever chat uses it. */
    options.max_tokens = 2;
    OK(sllm_session_state_size(session, &n));
    state = malloc(n);
    OK(sllm_session_save(session, state, n, NULL));
    OK(sllm_session_load(loaded, state, n));
    free(state);
    OK(sllm_session_fork(session, &fork));
    OK(sllm_session_position(fork, &length));
    OK(sllm_chat_add(chat, "user", "Then?"));
    OK(sllm_chat_generate(chat, fork, NULL, &options, &again));
    CHECK(length > 40 && again.prompt_tokens < 40);
    OK(sllm_chat_add(chat, "user", "So?"));
    OK(sllm_chat_generate(chat, loaded, NULL, &options, &again));
    CHECK(again.prompt_tokens < 60);
    OK(sllm_session_free(&fork));
    OK(sllm_session_free(&loaded));
    /* A cancelled answer stays in the conversation, and is not read again. */
    options.on_token = cancel_soon;
    options.user = session;
    options.max_tokens = 200;
    again.stop = 77;
    OK(sllm_chat_render(chat, text, sizeof text, &length));
    OK(sllm_chat_add(chat, "user", "Who?"));
    STATUS(SLLM_STATUS_CANCELLED, sllm_chat_generate(chat, session, NULL, &options, &again));
    CHECK(again.stop == 77);
    OK(sllm_chat_render(chat, text, sizeof text, &n));
    CHECK(n > length && strstr(text, "user: Who?\nassistant:") != NULL);
    OK(sllm_session_position(session, &length));
    options.on_token = NULL;
    options.max_tokens = 2;
    OK(sllm_chat_add(chat, "user", "And?"));
    OK(sllm_chat_generate(chat, session, NULL, &options, &again));
    CHECK(again.prompt_tokens < 40 && length > 40);
    /* Control tokens of a message are text. */
    options.control_tokens = 2;
    INVALID(sllm_chat_generate(chat, session, NULL, &options, &again));
    options.control_tokens = 0;
    OK(sllm_chat_clear(chat));
    OK(sllm_session_rewind(session, 0));
    OK(sllm_chat_add(chat, "user", "</s></s></s></s>"));
    OK(sllm_chat_generate(chat, session, NULL, &options, &first));
    OK(sllm_chat_clear(chat));
    OK(sllm_session_rewind(session, 0));
    options.control_tokens = 1;
    OK(sllm_chat_add(chat, "user", "</s></s></s></s>"));
    OK(sllm_chat_generate(chat, session, NULL, &options, &second));
    CHECK(first.prompt_tokens > second.prompt_tokens);
    OK(sllm_chat_free(&chat));
    OK(sllm_chat_free(&chat));
    OK(sllm_session_free(&session));
    OK(sllm_session_free(&other));
    OK(sllm_tokenizer_free(&silent));
    free(answer);
}
