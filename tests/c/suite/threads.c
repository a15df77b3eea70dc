/* Threads: sessions side by side, cancelling, memory given back; panics inside. */
#include "suite.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define THREADS 8
#define TOKENS 16

struct job {
    uint32_t prompt[4], tokens[TOKENS];
};

static void *generate(void *arg) {
    struct job *job = arg;
    sllm_session *session = short_session(64, 1);
    decode_greedily(session, job->prompt, 4, job->tokens, TOKENS);
    OK(sllm_session_free(&session));
    /* Each thread has messages of its own. */
    CHECK(sllm_last_error_message()[0] == 0);
    INVALID(sllm_session_decode(NULL, 0));
    return NULL;
}

/* Eight sessions of one model at the same time choose the same tokens as each alone. */
static void side_by_side(void) {
    struct job alone[THREADS], together[THREADS];
    pthread_t threads[THREADS];
    uint32_t i, k;
    for (i = 0; i < THREADS; i++) {
        sllm_session *session = short_session(64, 2);
        for (k = 0; k < 4; k++) alone[i].prompt[k] = (7 * i + 3 * k + 1) % info.vocab;
        together[i] = alone[i];
        decode_greedily(session, alone[i].prompt, 4, alone[i].tokens, TOKENS);
        OK(sllm_session_free(&session));
    }
    for (i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, generate, &together[i]) == 0);
    for (i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (i = 0; i < THREADS; i++) CHECK(memcmp(&alone[i], &together[i], sizeof alone[i]) == 0);
}

static void applied(void) {
    sllm_session *session = short_session(16, 3);
    sllm_threads threads = {0};
    threads.struct_size = sizeof threads;
    OK(sllm_session_get_threads(session, &threads));
    CHECK(threads.threads == 3 && threads.cores > 0 && threads.core_mask != 0);
    OK(sllm_session_free(&session));
    session = short_session(16, 0);
    OK(sllm_session_get_threads(session, &threads));
    CHECK(threads.threads >= 1 && threads.threads <= threads.cores);
    OK(sllm_session_free(&session));
}

/* A cancel before a call stops that call; a cancel that was taken back stops none. */
static void cancel_between(void) {
    static const uint32_t prompt[] = {1, 2, 3};
    sllm_session *session = short_session(16, 1);
    size_t position = 7;
    OK(sllm_session_cancel(session));
    STATUS(SLLM_STATUS_CANCELLED, sllm_session_prefill(session, prompt, 3));
    OK(sllm_session_position(session, &position));
    CHECK(position == 0);
    OK(sllm_session_prefill(session, prompt, 3));
    OK(sllm_session_cancel(session));
    STATUS(SLLM_STATUS_CANCELLED, sllm_session_decode(session, 1));
    OK(sllm_session_cancel(session));
    OK(sllm_session_reset_cancel(session));
    OK(sllm_session_decode(session, 1));
    OK(sllm_session_free(&session));
}

static void *touch_again_and_again(void *arg) {
    size_t position;
    int i;
    for (i = 0; i < 2000; i++) {
        int32_t status = sllm_session_position(arg, &position);
        CHECK(status == SLLM_STATUS_OK || status == SLLM_STATUS_BUSY);
    }
    return NULL;
}

/* One session on two threads, against the rules: refused, and the session stays whole. */
static void one_session_two_threads(void) {
    sllm_session *session = short_session(64, 1);
    pthread_t thread;
    uint32_t i;
    CHECK(pthread_create(&thread, NULL, touch_again_and_again, session) == 0);
    for (i = 0; i < 40; i++) {
        int32_t status = sllm_session_decode(session, i);
        CHECK(status == SLLM_STATUS_OK || status == SLLM_STATUS_BUSY);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    OK(sllm_session_free(&session));
}

/* The last task given to a parallel_for, for threads that call it too late. */
static struct {
    sllm_task_fn volatile task;
    void *volatile data;
    volatile int over;
} given;

/* Runs no task: other threads, and the library itself, run them. */
static void given_away(void *user, uint32_t tasks, sllm_task_fn task, void *data) {
    (void)user, (void)tasks;
    given.data = data;
    given.task = task;
}

/* Without a number of threads, a parallel_for gets as many tasks at a time as the library's own threads would. */
static void width(void) {
    sllm_session *session = short_session(16, 0);
    sllm_session_options options;
    sllm_threads own = {0}, theirs = {0};
    own.struct_size = theirs.struct_size = sizeof own;
    OK(sllm_session_get_threads(session, &own));
    OK(sllm_session_free(&session));
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 16;
    options.parallel_for = given_away;
    OK(sllm_session_new(model, &options, &session));
    OK(sllm_session_get_threads(session, &theirs));
    CHECK(theirs.threads == own.threads);
    OK(sllm_session_free(&session));
}

static void *surplus(void *arg) {
    (void)arg;
    while (!given.over)
        if (given.task) given.task(given.data, 0);
    return NULL;
}

/* Calls of a task at any time, also between two steps, change no logit. */
static void surplus_calls(void) {
    static const uint32_t prompt[] = {1, 2, 3, 4, 5, 6, 7, 8};
    sllm_session_options options;
    sllm_session *session = short_session(64, 1);
    const float *logits = NULL;
    float *expected;
    size_t count = 0;
    pthread_t threads[4];
    double end;
    int i;
    OK(sllm_session_prefill(session, prompt, 8));
    OK(sllm_session_decode(session, 9));
    OK(sllm_session_logits(session, &logits, &count));
    expected = malloc(count * sizeof *expected);
    memcpy(expected, logits, count * sizeof *expected);
    OK(sllm_session_free(&session));
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 64;
    options.threads = 64;
    options.parallel_for = given_away;
    OK(sllm_session_new(model, &options, &session));
    for (i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, surplus, NULL) == 0);
    for (end = seconds() + 2; seconds() < end;) {
        OK(sllm_session_rewind(session, 0));
        OK(sllm_session_prefill(session, prompt, 8));
        OK(sllm_session_decode(session, 9));
        OK(sllm_session_logits(session, &logits, &count));
        CHECK(memcmp(logits, expected, count * sizeof *expected) == 0);
    }
    given.over = 1;
    for (i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    OK(sllm_session_free(&session));
    free(expected);
}

static pthread_t main_thread;
static volatile sig_atomic_t elsewhere;

static void note(int signal) {
    (void)signal;
    if (!pthread_equal(pthread_self(), main_thread)) elsewhere++;
}

/* The program's signals stay with the program's threads. */
static void signals(void) {
    sllm_session *session = short_session(16, 3);
    struct sigaction action = {0}, before;
    sigset_t blocked, mask;
    int i;
    main_thread = pthread_self();
    action.sa_handler = note;
    CHECK(sigaction(SIGUSR1, &action, &before) == 0);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &blocked, &mask) == 0);
    for (i = 0; i < 50; i++) {
        struct timespec pause = {0, 200000};
        CHECK(kill(getpid(), SIGUSR1) == 0);
        nanosleep(&pause, NULL);
    }
    CHECK(elsewhere == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &mask, NULL) == 0);
    CHECK(sigaction(SIGUSR1, &before, NULL) == 0);
    OK(sllm_session_free(&session));
}

void test_threads(void) {
    signals();
    surplus_calls();
    side_by_side();
    applied();
    width();
    cancel_between();
    one_session_two_threads();
}

static void cycle(void) {
    static const uint32_t prompt[] = {1, 2, 3};
    sllm_model *one = NULL;
    sllm_session *session = NULL, *fork = NULL;
    sllm_sampler *sampler = NULL;
    OK(sllm_model_open(model_path, NULL, &one));
    OK(sllm_session_new(one, NULL, &session));
    OK(sllm_session_prefill(session, prompt, 3));
    OK(sllm_session_fork(session, &fork));
    OK(sllm_sampler_new(NULL, &sampler));
    OK(sllm_sampler_free(&sampler));
    OK(sllm_session_free(&fork));
    OK(sllm_session_free(&session));
    OK(sllm_model_free(&one));
}

/* Objects that live as long as an application. */
struct day {
    sllm_model *model;
    sllm_tokenizer *tokenizer;
    sllm_session *session;
    sllm_sampler *sampler;
    sllm_chat *chat;
    void *state;
};

static void begin_day(struct day *day) {
    sllm_session_options options;
    size_t size = 0;
    OK(sllm_model_open(chat_path, NULL, &day->model));
    OK(sllm_tokenizer_new(day->model, &day->tokenizer));
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 128;
    OK(sllm_session_new(day->model, &options, &day->session));
    OK(sllm_sampler_new(NULL, &day->sampler));
    OK(sllm_chat_new(day->tokenizer, &day->chat));
    OK(sllm_session_size(day->model, &options, &size));
    day->state = malloc(size);
}

/* What an application does again and again with them. */
static void turn(struct day *day) {
    sllm_generate_options options;
    sllm_session *fork = NULL;
    size_t size = 0, written = 0;
    OK(sllm_generate_options_defaults(&options, sizeof options));
    options.max_tokens = 3;
    OK(sllm_chat_add(day->chat, "user", "Who was the mayor?"));
    OK(sllm_chat_generate(day->chat, day->session, day->sampler, &options, NULL));
    OK(sllm_session_state_size(day->session, &size));
    OK(sllm_session_save(day->session, day->state, size, &written));
    OK(sllm_session_fork(day->session, &fork));
    OK(sllm_generate(fork, day->tokenizer, day->sampler, "The jury", 8, &options, NULL));
    OK(sllm_session_free(&fork));
    OK(sllm_session_rewind(day->session, 0));
    OK(sllm_session_load(day->session, day->state, written));
    INVALID(sllm_chat_add(day->chat, NULL, "x"));
    OK(sllm_chat_clear(day->chat));
}

static void end_day(struct day *day) {
    OK(sllm_chat_free(&day->chat));
    OK(sllm_sampler_free(&day->sampler));
    OK(sllm_session_free(&day->session));
    OK(sllm_tokenizer_free(&day->tokenizer));
    OK(sllm_model_free(&day->model));
    free(day->state);
}

static void a_cycle(struct day *day) {
    (void)day;
    cycle();
}

/* All memory is given back. Memory that the C library keeps for later threads may grow once; leaked memory grows
 * every time. */
static void flat(const char *what, void (*body)(struct day *), struct day *day, int times, long limit) {
    int i, round;
    long grown = 0;
    for (i = 0; i < 20 && i < times; i++) body(day);
    for (round = 0; round < 4; round++) {
        size_t before = resident();
        for (i = 0; i < times; i++) body(day);
        grown = (long)resident() - (long)before;
        printf("  resident after %d %s: %+ld KB\n", times, what, grown / 1024);
        if (times < 1000 || grown < limit) break;
    }
    if (times >= 1000) CHECK(grown < limit);
}

void test_cycles(void) {
    const char *wanted = getenv("SUITE_CYCLES");
    int cycles = wanted ? atoi(wanted) : 1000;
    struct day day = {0};
    /* Less than one session for all cycles, so that no session was kept. */
    flat("life cycles", a_cycle, NULL, cycles, 256 * 1024);
    begin_day(&day);
    flat("turns", turn, &day, cycles, 64 * 1024);
    end_day(&day);
}

#ifdef TEST_PANIC
int32_t sllm_test_panic(sllm_session *session);

static int logged;
static void log_line(void *user, int32_t level, const char *message) {
    (void)user;
    if (level == SLLM_LOG_ERROR && strstr(message, "a panic that a test asked for")) logged++;
}

/* All that an answer used is poisoned, and nothing else. */
static void panic_in_answer(int in_chat) {
    struct day day = {0};
    sllm_session *other = NULL;
    size_t n = 7;
    begin_day(&day);
    OK(sllm_session_fork(day.session, &other));
    OK(sllm_chat_add(day.chat, "user", "Who was the mayor?"));
    OK(sllm_test_panic(day.session));
    if (in_chat)
        STATUS(SLLM_STATUS_INTERNAL, sllm_chat_generate(day.chat, day.session, day.sampler, NULL, NULL));
    else
        STATUS(SLLM_STATUS_INTERNAL, sllm_generate(day.session, day.tokenizer, day.sampler, "The", 3, NULL, NULL));
    STATUS(SLLM_STATUS_INTERNAL, sllm_session_position(day.session, &n));
    STATUS(SLLM_STATUS_INTERNAL, sllm_session_fork(day.session, &other));
    STATUS(SLLM_STATUS_INTERNAL, sllm_sampler_accept(day.sampler, 1));
    STATUS(in_chat ? SLLM_STATUS_INTERNAL : SLLM_STATUS_OK, sllm_chat_count(day.chat, &n));
    CHECK(n == (in_chat ? 7 : 1));
    OK(sllm_generate(other, day.tokenizer, NULL, "The", 3, NULL, NULL));
    OK(sllm_session_free(&other));
    end_day(&day);
}

void test_panics(void) {
    static const uint32_t prompt[] = {1, 2, 3};
    uint32_t threads;
    OK(sllm_set_log(log_line, NULL, SLLM_LOG_INFO));
    for (threads = 1; threads <= 3; threads++) {
        sllm_session *session = short_session(16, threads), *other = short_session(16, threads);
        size_t position = 7;
        OK(sllm_test_panic(session));
        STATUS(SLLM_STATUS_INTERNAL, sllm_session_prefill(session, prompt, 3));
        STATUS(SLLM_STATUS_INTERNAL, sllm_session_prefill(session, prompt, 3));
        STATUS(SLLM_STATUS_INTERNAL, sllm_session_position(session, &position));
        CHECK(position == 7);
        OK(sllm_session_prefill(other, prompt, 3));
        OK(sllm_session_free(&session));
        OK(sllm_session_free(&other));
    }
    panic_in_answer(0);
    panic_in_answer(1);
    CHECK(logged >= 5);
    OK(sllm_set_log(NULL, NULL, SLLM_LOG_OFF));
}
#endif

struct late {
    sllm_session *session;
    double after, at;
};

static void *cancel_later(void *arg) {
    struct late *late = arg;
    struct timespec pause = {0, (long)(late->after * 1e9)};
    nanosleep(&pause, NULL);
    late->at = seconds();
    OK(sllm_session_cancel(late->session));
    return NULL;
}

#define CANCELS 13

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A long prefill ends soon after it is cancelled. */
void test_cancel(const char *large_path) {
    sllm_model *large = NULL;
    sllm_session_options options;
    struct late late = {NULL, 0, 0};
    static uint32_t tokens[4000];
    double delays[CANCELS], delay;
    size_t position = 7, i;
    pthread_t thread;
    OK(sllm_model_open(large_path, NULL, &large));
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 4096;
    OK(sllm_session_new(large, &options, &late.session));
    for (i = 0; i < 4000; i++) tokens[i] = (uint32_t)(i * 7 % 1000 + 100);
    for (i = 0; i < CANCELS; i++) {
        late.after = 0.03 + 0.045 * (double)i;
        OK(sllm_session_rewind(late.session, 0));
        CHECK(pthread_create(&thread, NULL, cancel_later, &late) == 0);
        STATUS(SLLM_STATUS_CANCELLED, sllm_session_prefill(late.session, tokens, 4000));
        delay = seconds() - late.at;
        CHECK(pthread_join(thread, NULL) == 0);
        delays[i] = delay;
        OK(sllm_session_position(late.session, &position));
        CHECK(position < 4000 && position % 128 == 0);
    }
    /* The median, because on a busy machine a single wait may be the time until this thread runs again. */
    qsort(delays, CANCELS, sizeof *delays, by_size);
    printf("  wait for a cancel: %.1f ms, at most %.1f ms\n", delays[CANCELS / 2] * 1e3, delays[CANCELS - 1] * 1e3);
    CHECK(delays[CANCELS / 2] < 0.05);
    OK(sllm_session_prefill(late.session, tokens, 8));
    OK(sllm_session_free(&late.session));
    OK(sllm_model_free(&large));
}
