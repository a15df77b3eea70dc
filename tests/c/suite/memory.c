/* Memory that the caller gives, at every alignment and size; the embedder's threads and clock. */
#include "suite.h"

#include <pthread.h>

static uint64_t ticks(void *user) {
    return *(uint64_t *)user += 1000;
}

/* Leaves out every third task and calls another one twice: the library must still run each task once. */
static void careless(void *user, uint32_t tasks, sllm_task_fn task, void *data) {
    uint32_t i;
    *(unsigned *)user += 1;
    for (i = 0; i < tasks; i++)
        if (i % 3) task(data, i);
    if (tasks % 2)
        for (i = 0; i < 2 * tasks; i++) task(data, 0);
}

struct part {
    sllm_task_fn task;
    void *data;
    uint32_t first, tasks;
};

static void *run_part(void *arg) {
    struct part *part = arg;
    uint32_t i;
    for (i = part->first; i < part->tasks; i += 2) part->task(part->data, i);
    return NULL;
}

static void two_threads(void *user, uint32_t tasks, sllm_task_fn task, void *data) {
    struct part parts[2] = {{task, data, 0, tasks}, {task, data, 1, tasks}};
    pthread_t thread;
    *(unsigned *)user += 1;
    if (pthread_create(&thread, NULL, run_part, &parts[1]) == 0) {
        run_part(&parts[0]);
        pthread_join(thread, NULL);
    }
}

static void placed(size_t shift) {
    static const uint32_t prompt[] = {5, 9, 14};
    uint32_t alone[5], here[5];
    sllm_session *session = short_session(40, 1);
    sllm_model *flash = NULL;
    sllm_sampler *sampler = NULL;
    sllm_session_options options;
    sllm_memory estimate = {0};
    sllm_stats stats = {0};
    uint64_t clock = 0;
    unsigned steps = 0;
    size_t size = 0;
    unsigned char *a = malloc(sllm_model_size() + shift), *b, *c = malloc(sllm_sampler_size() + shift);
    decode_greedily(session, prompt, 3, alone, 5);
    OK(sllm_session_free(&session));
    STATUS(SLLM_STATUS_BUFFER_TOO_SMALL, sllm_model_init(a, sllm_model_size() - 1, image, image_size, &flash));
    OK(sllm_model_init(a + shift, sllm_model_size(), image, image_size, &flash));
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 40;
    options.clock = ticks;
    options.clock_user = &clock;
    options.parallel_for = shift % 2 ? careless : two_threads;
    options.parallel_for_user = &steps;
    options.threads = 4;
    OK(sllm_session_size(flash, &options, &size));
    estimate.struct_size = sizeof estimate;
    OK(sllm_estimate_memory(flash, &options, &estimate));
    CHECK(estimate.session_bytes == size && estimate.kv_bytes > 0 && estimate.kv_bytes < size);
    CHECK(estimate.image_bytes == image_size && estimate.total_bytes == size + image_size);
    b = malloc(size + shift);
    STATUS(SLLM_STATUS_BUFFER_TOO_SMALL, sllm_session_init(flash, &options, b, size - 1, &session));
    CHECK(session == NULL);
    OK(sllm_session_init(flash, &options, b + shift, size, &session));
    decode_greedily(session, prompt, 3, here, 5);
    CHECK(memcmp(alone, here, sizeof alone) == 0 && steps > 0 && clock > 0);
    stats.struct_size = sizeof stats;
    OK(sllm_session_get_stats(session, &stats));
    CHECK(stats.decode_nanoseconds % 1000 == 0 && stats.decode_nanoseconds > 0 && stats.session_bytes == size);
    OK(sllm_sampler_init(c + shift, sllm_sampler_size(), NULL, &sampler));
    OK(sllm_session_sample(session, sampler, here));
    OK(sllm_sampler_free(&sampler));
    OK(sllm_model_free(&flash)); /* the session still holds it */
    decode_greedily(session, prompt, 1, here, 1);
    OK(sllm_session_free(&session));
    free(a);
    free(b);
    free(c);
}

void test_memory(void) {
    static const size_t shifts[] = {0, 1, 3, 8, 63};
    sllm_session_options options;
    sllm_session *session = NULL;
    size_t size = 0, i;
    void *memory;
    for (i = 0; i < sizeof shifts / sizeof *shifts; i++) placed(shifts[i]);
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = 16;
    options.threads = 2; /* the library's own threads need allocation */
    OK(sllm_session_size(model, &options, &size));
    memory = malloc(size);
    INVALID(sllm_session_init(model, &options, memory, size, &session));
    CHECK(session == NULL);
    free(memory);
}
