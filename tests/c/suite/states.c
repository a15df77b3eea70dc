/* Saved states and forks: what follows is, bit for bit, what would have followed in the first session. */
#include "suite.h"

static const uint32_t prompt[] = {5, 9, 14, 20, 3, 77, 41, 6};
#define PROMPT (sizeof prompt / sizeof *prompt)
#define TOKENS 6

static void count_logits(void *user, size_t index, const float *logits, size_t count) {
    size_t *seen = user;
    CHECK(index == *seen && count > 100 && logits[0] == logits[0]);
    ++*seen;
}

/* The sampler's state is saved too, and the tokens that were read can be listed. */
static void sampled_again(void) {
    sllm_session *one = short_session(48, 1);
    sllm_sampler *sampler = NULL, *other = NULL;
    sllm_sampler_options options;
    const uint32_t *tokens = NULL;
    const char *json = NULL;
    uint32_t straight[TOKENS], again[TOKENS];
    unsigned char state[1024];
    size_t n = 0, i;
    OK(sllm_sampler_options_defaults(&options, sizeof options));
    options.repetition_penalty = 1.3f;
    options.temperature = 2;
    options.seed = 5;
    OK(sllm_sampler_new(&options, &sampler));
    options.seed = 6;
    OK(sllm_sampler_new(&options, &other));
    OK(sllm_session_prefill(one, prompt, PROMPT));
    OK(sllm_session_sample(one, sampler, &straight[0]));
    OK(sllm_sampler_accept(sampler, straight[0]));
    CHECK(sllm_sampler_state_size() <= sizeof state);
    STATUS(SLLM_STATUS_BUFFER_TOO_SMALL, sllm_sampler_save(sampler, state, 16));
    OK(sllm_sampler_save(sampler, state, sizeof state));
    OK(sllm_sampler_load(other, state, sizeof state));
    for (i = 0; i < TOKENS; i++) {
        OK(sllm_session_sample(one, sampler, &straight[i]));
        OK(sllm_session_sample(one, other, &again[i]));
    }
    CHECK(memcmp(straight, again, sizeof straight) == 0);
    state[9] ^= 1;
    STATUS(SLLM_STATUS_BAD_STATE, sllm_sampler_load(other, state, sizeof state));
    STATUS(SLLM_STATUS_BAD_STATE, sllm_sampler_load(other, state, 8));
    OK(sllm_session_tokens(one, &tokens, &n));
    CHECK(n == PROMPT && memcmp(tokens, prompt, sizeof prompt) == 0);
    OK(sllm_session_context(one, &n));
    CHECK(n == 48);
    OK(sllm_session_progress(one, &n));
    CHECK(n == PROMPT);
    n = 0;
    OK(sllm_session_prefill_each(one, prompt, PROMPT, count_logits, &n));
    CHECK(n == PROMPT);
    OK(sllm_model_end_tokens(model, &tokens, &n));
    for (i = 0; i < n; i++) {
        int32_t is_end = 0;
        OK(sllm_model_is_end(model, tokens[i], &is_end));
        CHECK(is_end == 1);
    }
    OK(sllm_model_metadata(model, &json, &n));
    CHECK(n > 2 && json[0] == '{' && json[n - 1] == '}');
    OK(sllm_sampler_free(&sampler));
    OK(sllm_sampler_free(&other));
    OK(sllm_session_free(&one));
}

static void saved_and_loaded(void) {
    sllm_session *one = short_session(48, 1), *two = short_session(64, 1), *fork = NULL, *tiny = short_session(8, 1);
    uint32_t straight[TOKENS], again[TOKENS];
    size_t size = 0, written = 7, position = 0;
    unsigned char *state;
    decode_greedily(one, prompt, PROMPT, NULL, 3);
    OK(sllm_session_state_size(one, &size));
    state = malloc(size);
    memset(state, 0x5a, size);
    STATUS(SLLM_STATUS_BUFFER_TOO_SMALL, sllm_session_save(one, state, size - 1, &written));
    CHECK(written == 7 && state[0] == 0x5a);
    OK(sllm_session_save(one, state, size, &written));
    OK(sllm_session_save(one, state, size, NULL));
    CHECK(written == size);
    OK(sllm_session_fork(one, &fork));
    decode_greedily(one, prompt, 1, straight, TOKENS);
    decode_greedily(fork, prompt, 1, again, TOKENS);
    CHECK(memcmp(straight, again, sizeof straight) == 0);
    OK(sllm_session_load(two, state, size));
    OK(sllm_session_position(two, &position));
    CHECK(position == PROMPT + 3);
    decode_greedily(two, prompt, 1, again, TOKENS);
    CHECK(memcmp(straight, again, sizeof straight) == 0);
    STATUS(SLLM_STATUS_BAD_STATE, sllm_session_load(two, state, size - 1));
    STATUS(SLLM_STATUS_BAD_STATE, sllm_session_load(two, state, 0));
    STATUS(SLLM_STATUS_CONTEXT_FULL, sllm_session_load(tiny, state, size));
    state[20] ^= 1;
    STATUS(SLLM_STATUS_BAD_STATE, sllm_session_load(two, state, size));
    OK(sllm_session_position(two, &position));
    CHECK(position == PROMPT + 3 + 1 + TOKENS);
    free(state);
    OK(sllm_session_free(&one));
    OK(sllm_session_free(&two));
    OK(sllm_session_free(&fork));
    OK(sllm_session_free(&tiny));
}

/* A session of a model, with a dial. */
static sllm_session *with_dial(sllm_model *of, const sllm_dial *dial) {
    sllm_session_options options;
    sllm_session *session = NULL;
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 48;
    options.threads = 1;
    OK(sllm_session_new(of, &options, &session));
    OK(sllm_session_set_dial(session, dial));
    return session;
}

/* Decodes the same tokens in three sessions and compares logits and bytes read after each. */
static void same_from_here(const sllm_dial *dial, sllm_session *one, sllm_session *fork, sllm_session *loaded) {
    sllm_session *sessions[3] = {one, fork, loaded};
    static const char *const names[3] = {"itself", "a fork", "a loaded state"};
    const float *expected = NULL, *logits = NULL;
    sllm_stats stats[3];
    size_t n = 0, m = 0, i, k;
    uint32_t token = 0;
    for (k = 0; k < 3; k++) OK(sllm_session_reset_stats(sessions[k]));
    for (i = 0; i < TOKENS; i++) {
        OK(sllm_session_sample(one, NULL, &token));
        for (k = 0; k < 3; k++) {
            stats[k].struct_size = sizeof *stats;
            OK(sllm_session_decode(sessions[k], token));
            OK(sllm_session_logits(sessions[k], k == 0 ? &expected : &logits, k == 0 ? &n : &m));
            OK(sllm_session_get_stats(sessions[k], &stats[k]));
            if (k == 0) continue;
            if (n != m || memcmp(expected, logits, n * sizeof *logits) != 0
                || stats[0].weight_bytes != stats[k].weight_bytes) {
                fprintf(stderr, "policy %d, %s: token %zu differs; %llu and %llu bytes were read\n", (int)dial->policy,
                        names[k], i, (unsigned long long)stats[0].weight_bytes, (unsigned long long)stats[k].weight_bytes);
                failures++;
            }
        }
    }
}

/* After a prompt and `decoded` tokens: a fork, and a session that loads the saved state. */
static void continues(sllm_model *of, const sllm_dial *dial, size_t decoded) {
    sllm_session *one = with_dial(of, dial), *two = with_dial(of, dial), *fork = NULL;
    unsigned char *state;
    size_t size = 0;
    decode_greedily(one, prompt, PROMPT, NULL, decoded);
    OK(sllm_session_state_size(one, &size));
    state = malloc(size);
    OK(sllm_session_save(one, state, size, NULL));
    OK(sllm_session_fork(one, &fork));
    OK(sllm_session_load(two, state, size));
    same_from_here(dial, one, fork, two);
    free(state);
    OK(sllm_session_free(&one));
    OK(sllm_session_free(&two));
    OK(sllm_session_free(&fork));
}

/* With every policy that the model has and a choice for each token; returns the number of policies. */
static int every_policy(sllm_model *of) {
    sllm_session *session = NULL;
    sllm_dial dial;
    int32_t policy, status;
    int found = 0;
    OK(sllm_session_new(of, NULL, &session));
    for (policy = SLLM_POLICY_OFF;; policy++) {
        if (policy == 1) continue; /* not a policy */
        OK(sllm_dial_defaults(&dial, sizeof dial));
        dial.policy = policy;
        dial.density = policy == SLLM_POLICY_OFF ? 1 : 0.5f;
        dial.seed = 7;
        status = sllm_session_set_dial(session, &dial);
        if (status == SLLM_STATUS_INVALID_ARGUMENT) break; /* that was the last policy */
        if (status != SLLM_STATUS_UNSUPPORTED) {
            CHECK(status == SLLM_STATUS_OK);
            continues(of, &dial, 0);
            continues(of, &dial, 3);
            found++;
        }
    }
    OK(sllm_session_free(&session));
    return found;
}

void test_states(void) {
    sllm_model *story = NULL;
    sampled_again();
    saved_and_loaded();
    /* One model is calibrated for few policies, one for many. */
    CHECK(every_policy(model) >= 6);
    OK(sllm_model_open(story_path, NULL, &story));
    CHECK(every_policy(story) >= 10);
    OK(sllm_model_free(&story));
}
