/* Options that change what comes out, or only how: pairs of settings and whether their outputs are the same. */
#include "suite.h"

#include <math.h>

static const uint32_t prompt[] = {5, 9, 14, 20, 3, 77, 41, 6};
#define PROMPT (sizeof prompt / sizeof *prompt)
#define STEPS 32

struct settings {
    sllm_model *of;
    sllm_session_options session;
    sllm_sampler_options sampler;
    sllm_dial dial;
};

struct outcome {
    uint32_t tokens[STEPS];
    float logits[1 << 16]; /* after the last token */
};

static void write_with(const struct settings *with, struct outcome *outcome) {
    sllm_session *session = NULL;
    sllm_sampler *sampler = NULL;
    const float *logits = NULL;
    size_t count = 0, i;
    memset(outcome, 0, sizeof *outcome);
    OK(sllm_session_new(with->of, &with->session, &session));
    OK(sllm_sampler_new(&with->sampler, &sampler));
    OK(sllm_session_set_dial(session, &with->dial));
    OK(sllm_session_prefill(session, prompt, PROMPT));
    for (i = 0; i < STEPS; i++) {
        OK(sllm_session_sample(session, sampler, &outcome->tokens[i]));
        OK(sllm_sampler_accept(sampler, outcome->tokens[i]));
        OK(sllm_session_decode(session, outcome->tokens[i]));
    }
    OK(sllm_session_logits(session, &logits, &count));
    CHECK(count > 0 && count <= sizeof outcome->logits / sizeof *logits);
    if (logits) memcpy(outcome->logits, logits, count * sizeof *logits);
    OK(sllm_sampler_free(&sampler));
    OK(sllm_session_free(&session));
}

static void compare(const char *what, const struct settings *one, const struct settings *two, int same) {
    struct outcome *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    write_with(one, a);
    write_with(two, b);
    if (same != (memcmp(a, b, sizeof *a) == 0)) {
        fprintf(stderr, "%s:%d: %s: the outputs are %s\n", __FILE__, __LINE__, what, same ? "different" : "the same");
        failures++;
    }
    free(a);
    free(b);
}

/* Two changes of the settings `base`, which `s` points to. */
#define COMPARED(same, change_one, change_two)                                                                         \
    do {                                                                                                               \
        struct settings one_ = base, two_ = base, *s = &one_;                                                          \
        change_one;                                                                                                    \
        s = &two_;                                                                                                     \
        change_two;                                                                                                    \
        compare(#change_one " and " #change_two, &one_, &two_, same);                                                  \
    } while (0)
#define SAME(one, two) COMPARED(1, one, two)
#define DIFFERENT(one, two) COMPARED(0, one, two)

static void of_sessions(struct settings base) {
    SAME(s->session.kv_format = SLLM_KV_AUTO, s->session.kv_format = SLLM_KV_F16); /* the weights have 4 bits */
    DIFFERENT(s->session.kv_format = SLLM_KV_F16, s->session.kv_format = SLLM_KV_F32);
    SAME(s->session.batch = 0, s->session.batch = 3);
    SAME(s->session.cores = SLLM_CORES_FASTEST, s->session.cores = SLLM_CORES_ANY);
}

static void of_samplers(struct settings base) {
    struct settings greedy = base;
    greedy.sampler.temperature = 0;
    base.sampler.temperature = 3;
    base.sampler.top_k = 0;
    base.sampler.top_p = 1;
    base.sampler.min_p = 0;
    DIFFERENT(s->sampler.seed = 1, s->sampler.seed = 2);
    /* Each alone leaves the likeliest token only. */
    SAME(*s = greedy, s->sampler.top_k = 1);
    SAME(*s = greedy, s->sampler.top_p = 1e-6f);
    SAME(*s = greedy, s->sampler.min_p = 0.999f);
    DIFFERENT(s->sampler.top_k = 0, s->sampler.top_k = 3);
    DIFFERENT(s->sampler.top_p = 1, s->sampler.top_p = 0.5f);
    DIFFERENT(s->sampler.min_p = 0, s->sampler.min_p = 0.2f);
    base = greedy;
    DIFFERENT(s->sampler.presence_penalty = 0, s->sampler.presence_penalty = 1);
    DIFFERENT(s->sampler.frequency_penalty = 0, s->sampler.frequency_penalty = 1);
    DIFFERENT(s->sampler.presence_penalty = 0.25f, s->sampler.frequency_penalty = 0.25f);
}

static void of_dials(struct settings base) {
    sllm_model *sketched = NULL;
    base.dial.policy = SLLM_POLICY_SHADOW;
    base.dial.density = 0.5f;
    DIFFERENT(s->dial.allocation = SLLM_ALLOCATION_GLOBAL, s->dial.allocation = SLLM_ALLOCATION_LOCAL);
    DIFFERENT(s->dial.allocation = SLLM_ALLOCATION_GLOBAL, s->dial.allocation = SLLM_ALLOCATION_HYBRID);
    DIFFERENT(s->dial.allocation = SLLM_ALLOCATION_LOCAL, s->dial.allocation = SLLM_ALLOCATION_HYBRID);
    OK(sllm_model_open(chat_path, NULL, &sketched));
    base.of = sketched;
    base.dial.policy = SLLM_POLICY_OUTPUT;
    base.dial.density = 1;
    SAME(s->dial.policy = SLLM_POLICY_OFF, s->dial.output_window = INFINITY);
    DIFFERENT(s->dial.output_window = 1, s->dial.output_window = INFINITY);
    DIFFERENT(s->dial.output_window = 1, s->dial.output_window = 8);
    OK(sllm_model_free(&sketched));
}

/* The chat's model expects its beginning token before a text. */
static void of_tokenizers(void) {
    sllm_model *begins = NULL;
    sllm_tokenizer *tokenizer = NULL;
    uint32_t plain[16], special[16];
    size_t n = 0, m = 0;
    OK(sllm_model_open(chat_path, NULL, &begins));
    OK(sllm_tokenizer_new(begins, &tokenizer));
    OK(sllm_model_free(&begins));
    OK(sllm_tokenizer_tokenize(tokenizer, "The jury", SLLM_NUL_TERMINATED, 0, plain, 16, &n));
    OK(sllm_tokenizer_tokenize(tokenizer, "The jury", SLLM_NUL_TERMINATED, SLLM_TOKENIZE_ADD_SPECIAL, special, 16, &m));
    CHECK(n > 0 && m == n + 1 && special[0] == (uint32_t)info.bos && memcmp(plain, special + 1, n * sizeof *plain) == 0);
    OK(sllm_tokenizer_free(&tokenizer));
}

void test_options(void) {
    struct settings base = {.of = model};
    OK(sllm_session_options_defaults(&base.session, sizeof base.session));
    OK(sllm_sampler_options_defaults(&base.sampler, sizeof base.sampler));
    OK(sllm_dial_defaults(&base.dial, sizeof base.dial));
    base.session.context = PROMPT + STEPS;
    base.session.threads = 2;
    base.sampler.temperature = 0;
    of_sessions(base);
    of_samplers(base);
    of_dials(base);
    of_tokenizers();
}
