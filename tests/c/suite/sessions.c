/* Sessions: options, tokens, order of calls, overflow, samplers, dial. */
#include "suite.h"

#include <math.h>

static const uint32_t prompt[] = {5, 9, 14, 20, 3, 77, 41, 6};
#define PROMPT (sizeof prompt / sizeof *prompt)

static void options_out_of_range(void) {
    sllm_session_options good, options;
    sllm_session *session = NULL;
    size_t size = 7;
    OK(sllm_session_options_defaults(&good, sizeof good));
#define REFUSED(field, value)                                                                                          \
    do {                                                                                                               \
        options = good;                                                                                                \
        options.field = (value);                                                                                       \
        INVALID(sllm_session_new(model, &options, &session));                                                          \
    } while (0)
    REFUSED(context, UINT32_MAX);
    REFUSED(context, info.most_context + 1);
    REFUSED(kv_format, 3);
    REFUSED(dense_only, 2);
    REFUSED(threads, 513);
    REFUSED(cores, 2);
    REFUSED(struct_size, 3);
#undef REFUSED
    options = good;
    options.context = UINT32_MAX;
    INVALID(sllm_session_size(model, &options, &size));
    CHECK(size == 7 && session == NULL);
}

static void one_by_one(void *user, uint32_t tasks, sllm_task_fn task, void *data) {
    uint32_t i;
    (void)user;
    for (i = 0; i < tasks; i++) task(data, i);
}

/* A limit on the memory for weights does not change the tokens; a model that cannot be limited is refused. */
static void budgets(void) {
    static const uint32_t prompt[] = {3, 1, 2};
    uint32_t whole[6], within[6];
    sllm_session_options options = {0};
    sllm_session *session = short_session(32, 2);
    sllm_model *mapped = NULL, *given = NULL;
    decode_greedily(session, prompt, 3, whole, 6);
    OK(sllm_session_free(&session));
    options.struct_size = sizeof options;
    options.context = 32;
    options.memory_budget = (uint32_t)(info.image_bytes / 1000000) + 1;
    OK(sllm_model_open(model_path, NULL, &mapped));
    OK(sllm_session_new(mapped, &options, &session));
    decode_greedily(session, prompt, 3, within, 6);
    CHECK(memcmp(whole, within, sizeof whole) == 0);
    OK(sllm_session_free(&session));
    options.parallel_for = one_by_one;
    INVALID(sllm_session_new(mapped, &options, &session));
    options.parallel_for = NULL;
    OK(sllm_model_open_memory(image, image_size, NULL, &given));
    INVALID(sllm_session_new(given, &options, &session));
    CHECK(session == NULL);
    OK(sllm_model_free(&given));
    OK(sllm_model_free(&mapped));
}

static void wrong_order(void) {
    sllm_session *session = short_session(32, 1);
    sllm_sampler *sampler = NULL;
    const float *logits = NULL;
    size_t count = 7, position = 7;
    uint32_t token = 7, out = info.vocab;
    OK(sllm_sampler_new(NULL, &sampler));
    STATUS(SLLM_STATUS_NO_LOGITS, sllm_session_logits(session, &logits, &count));
    STATUS(SLLM_STATUS_NO_LOGITS, sllm_session_sample(session, sampler, &token));
    CHECK(logits == NULL && count == 7 && token == 7);
    INVALID(sllm_session_rewind(session, 1));
    INVALID(sllm_session_prefill(session, prompt, 0));
    STATUS(SLLM_STATUS_TOKEN_OUT_OF_RANGE, sllm_session_prefill(session, &out, 1));
    STATUS(SLLM_STATUS_TOKEN_OUT_OF_RANGE, sllm_session_decode(session, info.vocab));
    STATUS(SLLM_STATUS_TOKEN_OUT_OF_RANGE, sllm_session_decode(session, UINT32_MAX));
    OK(sllm_session_decode(session, 1)); /* a first token may be decoded */
    OK(sllm_session_logits(session, &logits, &count));
    CHECK(count == info.vocab && logits != NULL && !isnan(logits[0]));
    OK(sllm_session_position(session, &position));
    CHECK(position == 1);
    OK(sllm_session_rewind(session, 0));
    STATUS(SLLM_STATUS_NO_LOGITS, sllm_session_sample(session, NULL, &token));
    CHECK(token == 7);
    OK(sllm_sampler_free(&sampler));
    OK(sllm_sampler_free(&sampler));
    OK(sllm_session_free(&session));
    CHECK(session == NULL && sampler == NULL);
}

/* Handles of the wrong kind, and freed handles whose memory still exists. */
static void wrong_handles(void) {
    sllm_session *session = short_session(16, 1);
    sllm_sampler *sampler = NULL, *stale, *placed = NULL;
    void *memory = malloc(sllm_sampler_size());
    size_t position;
    OK(sllm_sampler_new(NULL, &sampler));
    STATUS(SLLM_STATUS_INVALID_HANDLE, sllm_session_position((sllm_session *)(void *)sampler, &position));
    STATUS(SLLM_STATUS_INVALID_HANDLE, sllm_session_position((sllm_session *)(void *)model, &position));
    STATUS(SLLM_STATUS_INVALID_HANDLE, sllm_sampler_accept((sllm_sampler *)(void *)session, 1));
    STATUS(SLLM_STATUS_INVALID_HANDLE, sllm_session_cancel((sllm_session *)(void *)model));
    STATUS(SLLM_STATUS_INVALID_HANDLE, sllm_model_retain((sllm_model *)(void *)((char *)model + 1)));
    OK(sllm_sampler_init(memory, sllm_sampler_size(), NULL, &placed));
    stale = placed;
    OK(sllm_sampler_free(&placed));
    STATUS(SLLM_STATUS_INVALID_HANDLE, sllm_sampler_accept(stale, 1));
    STATUS(SLLM_STATUS_INVALID_HANDLE, sllm_sampler_free(&stale));
    free(memory);
    OK(sllm_sampler_free(&sampler));
    OK(sllm_session_free(&session));
}

static void overflow(void) {
    sllm_session *session = short_session(PROMPT + 2, 1);
    uint32_t token = 0;
    size_t position = 0;
    decode_greedily(session, prompt, PROMPT, NULL, 2);
    OK(sllm_session_sample(session, NULL, &token));
    STATUS(SLLM_STATUS_CONTEXT_FULL, sllm_session_decode(session, token));
    STATUS(SLLM_STATUS_CONTEXT_FULL, sllm_session_prefill(session, prompt, 1));
    OK(sllm_session_position(session, &position));
    CHECK(position == PROMPT + 2);
    OK(sllm_session_rewind(session, PROMPT));
    OK(sllm_session_decode(session, token));
    OK(sllm_session_free(&session));
}

static void samplers(void) {
    sllm_sampler_options options;
    sllm_sampler *sampler = NULL;
    sllm_session *session = short_session(64, 1);
    uint32_t first[2][6], token;
    int round, i;
    OK(sllm_sampler_options_defaults(&options, sizeof options));
#define REFUSED(field, value)                                                                                          \
    do {                                                                                                               \
        sllm_sampler_options bad_ = options;                                                                           \
        bad_.field = (value);                                                                                          \
        INVALID(sllm_sampler_new(&bad_, &sampler));                                                                    \
    } while (0)
    REFUSED(temperature, -1);
    REFUSED(temperature, NAN);
    REFUSED(top_p, 0);
    REFUSED(top_p, 2);
    REFUSED(min_p, 1);
    REFUSED(repetition_penalty, 0);
    REFUSED(struct_size, 8);
#undef REFUSED
    CHECK(sampler == NULL);
    options.seed = 42;
    options.repetition_penalty = 1.3f;
    for (round = 0; round < 2; round++) {
        OK(sllm_sampler_new(&options, &sampler));
        OK(sllm_session_rewind(session, 0));
        OK(sllm_session_prefill(session, prompt, PROMPT));
        for (i = 0; i < 6; i++) {
            OK(sllm_session_sample(session, sampler, &token));
            OK(sllm_sampler_accept(sampler, token));
            OK(sllm_session_decode(session, token));
            first[round][i] = token;
        }
        OK(sllm_sampler_free(&sampler));
    }
    CHECK(memcmp(first[0], first[1], sizeof first[0]) == 0);
    OK(sllm_session_free(&session));
}

void test_sessions(void) {
    options_out_of_range();
    budgets();
    wrong_order();
    wrong_handles();
    overflow();
    samplers();
}

/* The dial by speed. With 1000 seconds for a token everything is read; a nanosecond is out of reach, and the expected time
 * says so. */
static void pace(sllm_session *session) {
    sllm_dial found = {.struct_size = sizeof found};
    double expected = -1;
    OK(sllm_session_rewind(session, 0));
    INVALID(sllm_session_set_pace(session, -1, -1, &expected));
    INVALID(sllm_session_set_pace(session, NAN, -1, &expected));
    INVALID(sllm_session_set_pace(session, INFINITY, -1, &expected));
    INVALID(sllm_session_set_pace(session, 1, NAN, &expected));
    CHECK(expected == -1);
    OK(sllm_session_set_pace(session, 1000, -1, &expected));
    CHECK(expected > 0 && expected < 1000);
    OK(sllm_session_get_dial(session, &found));
    CHECK(found.policy == SLLM_POLICY_OFF && found.refresh == 1);
    decode_greedily(session, prompt, PROMPT, NULL, 24);
    OK(sllm_session_get_dial(session, &found));
    CHECK(found.policy == SLLM_POLICY_OFF);
    INVALID(sllm_session_set_pace(session, 1000, -1, NULL)); /* it has read something */
    OK(sllm_session_rewind(session, 0));
    found.refresh = 3;
    OK(sllm_session_set_dial(session, &found));
    OK(sllm_session_set_pace(session, 1e-9, -1, &expected));
    CHECK(expected > 1e-9);
    OK(sllm_session_get_dial(session, &found));
    CHECK(found.refresh == 3); /* the rest of the dial stays */
    decode_greedily(session, prompt, PROMPT, NULL, 24);
    int32_t status = sllm_session_set_pace(session, 0, 0.5f, &expected);
    CHECK(status == SLLM_STATUS_OK ? expected == 0 : status == SLLM_STATUS_UNSUPPORTED);
    OK(sllm_session_set_sparsity(session, SLLM_SPARSITY_OFF));
}

/* Without calibration and a loss, only rows of the output matrix are skipped: the chat's image has a sketch of it. */
static void pace_without_calibration(void) {
    sllm_session_options options;
    sllm_dial found = {.struct_size = sizeof found};
    sllm_model *chat_model = NULL;
    sllm_session *session = NULL;
    double expected = -1;
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 64;
    OK(sllm_model_open(chat_path, NULL, &chat_model));
    OK(sllm_session_new(chat_model, &options, &session));
    STATUS(SLLM_STATUS_UNSUPPORTED, sllm_session_set_pace(session, 0, 0.5f, &expected));
    CHECK(expected == -1);
    OK(sllm_session_set_pace(session, 0, -1, &expected));
    OK(sllm_session_get_dial(session, &found));
    CHECK(found.policy == SLLM_POLICY_OUTPUT && found.density == 1 && expected == 0);
    decode_greedily(session, prompt, PROMPT, NULL, 2);
    OK(sllm_session_free(&session));
    OK(sllm_model_free(&chat_model));
}

/* An exact session keeps to no time: its answers do not take the times of decoding. A loss sets the dial of its guesses. */
static void pace_of_exact(void) {
    sllm_session_options options;
    sllm_session *session = NULL;
    double expected = -1;
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 64;
    options.exact = 1;
    OK(sllm_session_new(model, &options, &session));
    INVALID(sllm_session_set_pace(session, 1000, -1, &expected));
    CHECK(expected == -1);
    OK(sllm_session_set_pace(session, 0, -1, &expected));
    CHECK(expected == 0);
    OK(sllm_session_free(&session));
}

/* Off is dense, bit for bit; another policy reads less, and the statistics show it. */
void test_sparsity(void) {
    sllm_session *with = short_session(64, 1), *without = NULL;
    sllm_session_options options;
    sllm_dial dial, found;
    sllm_stats stats;
    const float *a, *b;
    size_t n, m;
    double dense;
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 64;
    options.dense_only = 1;
    OK(sllm_session_new(model, &options, &without));
    OK(sllm_session_set_sparsity(with, SLLM_SPARSITY_OFF));
    OK(sllm_session_set_sparsity(without, SLLM_SPARSITY_OFF));
    decode_greedily(with, prompt, PROMPT, NULL, 8);
    decode_greedily(without, prompt, PROMPT, NULL, 8);
    OK(sllm_session_logits(with, &a, &n));
    OK(sllm_session_logits(without, &b, &m));
    CHECK(n == m && memcmp(a, b, n * sizeof *a) == 0);
    stats.struct_size = sizeof stats;
    OK(sllm_session_get_stats(with, &stats));
    CHECK(stats.prompt_tokens == PROMPT && stats.decoded_tokens == 8 && stats.decode_nanoseconds > 0);
    CHECK(stats.weight_bytes > 0 && stats.kv_bytes > 0 && stats.first_token_nanoseconds > 0);
    CHECK(stats.decode_tokens_per_second > 0 && stats.prefill_tokens_per_second > 0);
    CHECK(stats.peak_memory_bytes > stats.session_bytes / 8 && stats.density <= 1 && stats.density > 0.5);
    dense = (double)stats.weight_bytes;
    OK(sllm_dial_defaults(&dial, sizeof dial));
    dial.policy = SLLM_POLICY_PROMPT;
    dial.density = 0.4f;
    STATUS(SLLM_STATUS_UNSUPPORTED, sllm_session_set_dial(without, &dial));
    OK(sllm_session_rewind(with, 0));
    OK(sllm_session_set_dial(with, &dial));
    OK(sllm_session_reset_stats(with));
    decode_greedily(with, prompt, PROMPT, NULL, 8);
    OK(sllm_session_get_stats(with, &stats));
    CHECK(stats.density < 0.6 && stats.density > 0.2 && (double)stats.weight_bytes < dense);
    found.struct_size = sizeof found;
    OK(sllm_session_get_dial(with, &found));
    CHECK(found.policy == SLLM_POLICY_PROMPT && found.density == 0.4f && found.refresh == 1);
#define REFUSED(status, field, value)                                                                                  \
    do {                                                                                                               \
        sllm_dial bad_ = dial;                                                                                         \
        bad_.field = (value);                                                                                          \
        STATUS(status, sllm_session_set_dial(with, &bad_));                                                            \
    } while (0)
    REFUSED(SLLM_STATUS_INVALID_ARGUMENT, policy, 1);
    REFUSED(SLLM_STATUS_INVALID_ARGUMENT, policy, SLLM_POLICY_OUTPUT + 1);
    REFUSED(SLLM_STATUS_INVALID_ARGUMENT, policy, -1);
    REFUSED(SLLM_STATUS_INVALID_ARGUMENT, density, 0);
    REFUSED(SLLM_STATUS_INVALID_ARGUMENT, density, 1.5f);
    REFUSED(SLLM_STATUS_INVALID_ARGUMENT, density, NAN);
    REFUSED(SLLM_STATUS_INVALID_ARGUMENT, allocation, 3);
    REFUSED(SLLM_STATUS_INVALID_ARGUMENT, output_window, NAN);
    REFUSED(SLLM_STATUS_INVALID_ARGUMENT, reserved, 1);
    if (!info.is_calibrated) REFUSED(SLLM_STATUS_UNSUPPORTED, policy, SLLM_POLICY_INPUT);
#undef REFUSED
    INVALID(sllm_session_set_sparsity(with, 4));
    INVALID(sllm_session_set_sparsity(with, -1));
    if (!info.is_calibrated) STATUS(SLLM_STATUS_UNSUPPORTED, sllm_session_set_sparsity(with, SLLM_SPARSITY_MEDIUM));
    OK(sllm_session_get_dial(with, &found));
    CHECK(found.policy == SLLM_POLICY_PROMPT && found.density == 0.4f);
    pace(with);
    pace_without_calibration();
    pace_of_exact();
    OK(sllm_session_free(&with));
    OK(sllm_session_free(&without));
}
