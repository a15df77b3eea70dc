/* The C interface for Native.kt. Texts cross as bytes of UTF-8, since JNI's own strings are not UTF-8. A failure becomes
 * a pending ShadowllmException with its status and message. Checked here are the mistakes that Native's callers cannot
 * rule out: nulls, and NULs inside texts. */
#include "shadowllm.h"

#include <jni.h>
#include <stdlib.h>
#include <string.h>

/* A session with the objects that it needs to write text. */
struct conversation {
    sllm_model *model;
    sllm_session *session;
    sllm_tokenizer *tokenizer;
    sllm_sampler *sampler;
    sllm_sampler_options sampling;
    sllm_chat *chat; /* NULL when the model has no chat template */
};

static jclass exception_class;
static jmethodID exception_new;
static jmethodID on_progress;
static jmethodID on_token;

/* Throws, unless an exception is pending already. */
static void throw_message(JNIEnv *env, int32_t status, const char *message) {
    jbyteArray bytes;
    jobject exception;
    jsize length = (jsize)strlen(message);
    if ((*env)->ExceptionCheck(env)) return;
    bytes = (*env)->NewByteArray(env, length);
    if (bytes == NULL) return; /* OutOfMemoryError is pending */
    (*env)->SetByteArrayRegion(env, bytes, 0, length, (const jbyte *)message);
    exception = (*env)->NewObject(env, exception_class, exception_new, (jint)status, bytes);
    if (exception != NULL) {
        (*env)->Throw(env, (jthrowable)exception);
        (*env)->DeleteLocalRef(env, exception);
    }
    (*env)->DeleteLocalRef(env, bytes);
}

/* Whether the call succeeded; if not, its exception is pending. */
static int ok(JNIEnv *env, int32_t status) {
    if (status != SLLM_STATUS_OK) throw_message(env, status, sllm_last_error_message());
    return status == SLLM_STATUS_OK && !(*env)->ExceptionCheck(env);
}

static int not_null(JNIEnv *env, jlong handle) {
    if (handle == 0) throw_message(env, SLLM_STATUS_INVALID_HANDLE, "the object is null");
    return handle != 0;
}

static struct conversation *conversation(JNIEnv *env, jlong handle) {
    return not_null(env, handle) ? (struct conversation *)(intptr_t)handle : NULL;
}

/* A NUL-terminated copy, which the caller frees, or NULL with an exception pending. */
static char *text_of(JNIEnv *env, jbyteArray bytes) {
    jsize length;
    char *text;
    if (bytes == NULL) {
        throw_message(env, SLLM_STATUS_INVALID_ARGUMENT, "a text is null");
        return NULL;
    }
    length = (*env)->GetArrayLength(env, bytes);
    text = malloc((size_t)length + 1);
    if (text == NULL) {
        throw_message(env, SLLM_STATUS_OUT_OF_MEMORY, "no memory for a text");
        return NULL;
    }
    (*env)->GetByteArrayRegion(env, bytes, 0, length, (jbyte *)text);
    text[length] = 0;
    if (strlen(text) != (size_t)length) {
        throw_message(env, SLLM_STATUS_INVALID_ARGUMENT, "a text has a NUL character inside");
        free(text);
        return NULL;
    }
    return text;
}

static jbyteArray bytes_of(JNIEnv *env, const char *text, size_t length) {
    jbyteArray bytes = (*env)->NewByteArray(env, (jsize)length);
    if (bytes != NULL) (*env)->SetByteArrayRegion(env, bytes, 0, (jsize)length, (const jbyte *)text);
    return bytes;
}

static jdoubleArray doubles_of(JNIEnv *env, const double *values, jsize count) {
    jdoubleArray array = (*env)->NewDoubleArray(env, count);
    if (array != NULL) (*env)->SetDoubleArrayRegion(env, array, 0, count, values);
    return array;
}

static jlongArray longs_of(JNIEnv *env, const jlong *values, jsize count) {
    jlongArray array = (*env)->NewLongArray(env, count);
    if (array != NULL) (*env)->SetLongArrayRegion(env, array, 0, count, values);
    return array;
}

/* The bytes of a text, which must not be null, and their number; the caller gives them back with `done`. */
static jbyte *bytes_in(JNIEnv *env, jbyteArray bytes, size_t *length) {
    if (bytes == NULL) {
        throw_message(env, SLLM_STATUS_INVALID_ARGUMENT, "bytes are null");
        return NULL;
    }
    *length = (size_t)(*env)->GetArrayLength(env, bytes);
    return (*env)->GetByteArrayElements(env, bytes, NULL);
}

static void done(JNIEnv *env, jbyteArray bytes, jbyte *elements) {
    if (elements != NULL) (*env)->ReleaseByteArrayElements(env, bytes, elements, JNI_ABORT);
}

/* The Java object that a callback calls. Callbacks come on the thread of the call, so its environment is valid. */
struct receiver {
    JNIEnv *env;
    jobject object; /* may be NULL */
};

static int32_t progress(void *user, uint64_t done, uint64_t total) {
    const struct receiver *to = user;
    JNIEnv *env = to->env;
    jboolean go_on;
    if ((*env)->ExceptionCheck(env)) return 1;
    go_on = (*env)->CallBooleanMethod(env, to->object, on_progress, (jlong)done, (jlong)total);
    return (*env)->ExceptionCheck(env) || !go_on;
}

static int32_t token(void *user, const sllm_token *token) {
    const struct receiver *to = user;
    JNIEnv *env = to->env;
    jbyteArray text;
    jintArray ids;
    jfloatArray logprobs;
    jboolean go_on = JNI_FALSE;
    size_t i;
    if ((*env)->ExceptionCheck(env)) return 1;
    text = bytes_of(env, token->text, token->text_length);
    ids = text ? (*env)->NewIntArray(env, (jsize)token->top_count) : NULL;
    logprobs = ids ? (*env)->NewFloatArray(env, (jsize)token->top_count) : NULL;
    if (logprobs != NULL) {
        for (i = 0; i < token->top_count; i++) {
            const jint id = (jint)token->top[i].token;
            (*env)->SetIntArrayRegion(env, ids, (jsize)i, 1, &id);
            (*env)->SetFloatArrayRegion(env, logprobs, (jsize)i, 1, &token->top[i].logprob);
        }
        go_on = (*env)->CallBooleanMethod(env, to->object, on_token, text, (jdouble)token->tokens_per_second,
                                          (jdouble)token->density, (jint)token->id, (jboolean)(token->thought != 0),
                                          (jdouble)token->logprob, ids, logprobs);
    }
    if (logprobs != NULL) (*env)->DeleteLocalRef(env, logprobs);
    if (ids != NULL) (*env)->DeleteLocalRef(env, ids);
    if (text != NULL) (*env)->DeleteLocalRef(env, text);
    return (*env)->ExceptionCheck(env) || !go_on;
}

/* ---- Model ------------------------------------------------------------------------------------------------------ */

static void load_options(sllm_load_options *options, struct receiver *to, jboolean preload, jboolean verify) {
    sllm_load_options_defaults(options, sizeof *options);
    options->preload = preload;
    options->verify = verify;
    if (to->object != NULL) {
        options->progress = progress;
        options->progress_user = to;
    }
}

static jlong model_open(JNIEnv *env, jclass self, jbyteArray path, jboolean preload, jboolean verify, jobject sink) {
    struct receiver to = {env, sink};
    sllm_load_options options;
    sllm_model *model = NULL;
    char *name = text_of(env, path);
    (void)self;
    if (name == NULL) return 0;
    load_options(&options, &to, preload, verify);
    if (!ok(env, sllm_model_open(name, &options, &model))) sllm_model_free(&model);
    free(name);
    return (jlong)(intptr_t)model;
}

static jlong model_open_fd(JNIEnv *env, jclass self, jint fd, jlong offset, jlong length, jboolean preload,
                           jboolean verify, jobject sink) {
    struct receiver to = {env, sink};
    sllm_load_options options;
    sllm_model *model = NULL;
    (void)self;
    if (offset < 0 || length < 0) {
        throw_message(env, SLLM_STATUS_INVALID_ARGUMENT, "offset and length of an image are never negative");
        return 0;
    }
    load_options(&options, &to, preload, verify);
    if (!ok(env, sllm_model_open_fd(fd, (uint64_t)offset, (uint64_t)length, &options, &model))) sllm_model_free(&model);
    return (jlong)(intptr_t)model;
}

static void model_free(JNIEnv *env, jclass self, jlong handle) {
    sllm_model *model = (sllm_model *)(intptr_t)handle;
    (void)self;
    ok(env, sllm_model_free(&model));
}

static jlongArray model_info(JNIEnv *env, jclass self, jlong handle) {
    sllm_model_info info = {0};
    (void)self;
    info.struct_size = sizeof info;
    if (!not_null(env, handle) || !ok(env, sllm_model_get_info((sllm_model *)(intptr_t)handle, &info))) return NULL;
    {
        const jlong values[] = {info.vocab, info.layers, info.width, info.trained_context, info.has_tokenizer,
                                info.has_chat_template, info.is_calibrated, (jlong)info.image_bytes,
                                (jlong)info.bytes_per_token};
        return longs_of(env, values, sizeof values / sizeof *values);
    }
}

/* Positions where no number is given: less than the library's, for the memory of phones. */
#define DEFAULT_CONTEXT 2048

static sllm_session_options session_options(const sllm_model *model, jint context, jint threads) {
    sllm_session_options options;
    sllm_model_info info = {0};
    info.struct_size = sizeof info;
    sllm_session_options_defaults(&options, sizeof options);
    options.context = (uint32_t)context;
    if (context == 0 && sllm_model_get_info(model, &info) == SLLM_STATUS_OK)
        options.context = info.trained_context < DEFAULT_CONTEXT ? info.trained_context : DEFAULT_CONTEXT;
    options.threads = (uint32_t)threads;
    return options;
}

static jlong model_session_bytes(JNIEnv *env, jclass self, jlong handle, jint context, jint threads) {
    sllm_session_options options = session_options((sllm_model *)(intptr_t)handle, context, threads);
    sllm_memory memory = {0};
    (void)self;
    memory.struct_size = sizeof memory;
    if (!not_null(env, handle)) return 0;
    ok(env, sllm_estimate_memory((sllm_model *)(intptr_t)handle, &options, &memory));
    return (jlong)memory.session_bytes;
}

/* ---- Session ---------------------------------------------------------------------------------------------------- */

static void release(struct conversation *it) {
    sllm_chat_free(&it->chat);
    sllm_sampler_free(&it->sampler);
    sllm_session_free(&it->session);
    sllm_tokenizer_free(&it->tokenizer);
    sllm_model_free(&it->model);
    free(it);
}

static struct conversation *allocated(JNIEnv *env) {
    struct conversation *it = calloc(1, sizeof *it);
    if (it == NULL) throw_message(env, SLLM_STATUS_OUT_OF_MEMORY, "no memory for a session");
    return it;
}

static jlong session_new(JNIEnv *env, jclass self, jlong handle, jint context, jint threads, jfloat temperature,
                         jint top_k, jfloat top_p, jfloat min_p, jfloat repetition_penalty, jfloat presence_penalty,
                         jfloat frequency_penalty, jlong seed, jint memory_budget) {
    sllm_model *model = (sllm_model *)(intptr_t)handle;
    sllm_session_options options = session_options(model, context, threads);
    sllm_sampler_options sampling;
    sllm_model_info info = {0};
    struct conversation *it;
    (void)self;
    if (!not_null(env, handle)) return 0;
    options.memory_budget = (uint32_t)memory_budget;
    it = allocated(env);
    if (it == NULL) return 0;
    sllm_sampler_options_defaults(&sampling, sizeof sampling);
    sampling.temperature = temperature;
    sampling.top_k = (uint32_t)top_k;
    sampling.top_p = top_p;
    sampling.min_p = min_p;
    sampling.repetition_penalty = repetition_penalty;
    sampling.presence_penalty = presence_penalty;
    sampling.frequency_penalty = frequency_penalty;
    sampling.seed = (uint64_t)seed;
    it->sampling = sampling;
    info.struct_size = sizeof info;
    if (ok(env, sllm_model_retain(model))) it->model = model;
    if (it->model && ok(env, sllm_model_get_info(model, &info)) && ok(env, sllm_sampler_new(&sampling, &it->sampler))
        && ok(env, sllm_tokenizer_new(model, &it->tokenizer)) && ok(env, sllm_session_new(model, &options, &it->session))
        && (!info.has_chat_template || ok(env, sllm_chat_new(it->tokenizer, &it->chat))))
        return (jlong)(intptr_t)it;
    release(it);
    return 0;
}

static void session_free(JNIEnv *env, jclass self, jlong handle) {
    (void)env;
    (void)self;
    if (handle != 0) release((struct conversation *)(intptr_t)handle);
}

/* The session if it has a chat, else NULL with an exception pending. */
static struct conversation *chatting(JNIEnv *env, jlong handle) {
    struct conversation *it = conversation(env, handle);
    if (it != NULL && it->chat == NULL) {
        ok(env, sllm_chat_new(it->tokenizer, &it->chat)); /* fails, and says why */
        return it->chat ? it : NULL;
    }
    return it;
}

static void session_add(JNIEnv *env, jclass self, jlong handle, jbyteArray role, jbyteArray content) {
    struct conversation *it = chatting(env, handle);
    char *who, *what;
    (void)self;
    if (it == NULL) return;
    who = text_of(env, role);
    what = who ? text_of(env, content) : NULL;
    if (what != NULL) ok(env, sllm_chat_add(it->chat, who, what));
    free(what);
    free(who);
}

static void session_clear(JNIEnv *env, jclass self, jlong handle) {
    struct conversation *it = chatting(env, handle);
    (void)self;
    if (it != NULL) ok(env, sllm_chat_clear(it->chat));
}

static jbyteArray session_prompt(JNIEnv *env, jclass self, jlong handle) {
    struct conversation *it = chatting(env, handle);
    jbyteArray bytes = NULL;
    size_t length = 0;
    char *text;
    (void)self;
    if (it == NULL || !ok(env, sllm_chat_render(it->chat, NULL, 0, &length))) return NULL;
    text = malloc(length + 1);
    if (text == NULL) {
        throw_message(env, SLLM_STATUS_OUT_OF_MEMORY, "no memory for a prompt");
        return NULL;
    }
    if (ok(env, sllm_chat_render(it->chat, text, length + 1, &length))) bytes = bytes_of(env, text, length);
    free(text);
    return bytes;
}

/* The options of an answer that are arrays. */
struct held {
    char **stop; /* each of its own */
    jsize stops;
    sllm_bias *bias;
};

static void let_go(struct held *held) {
    jsize i;
    for (i = 0; held->stop != NULL && i < held->stops; i++) free(held->stop[i]);
    free(held->stop);
    free(held->bias);
}

/* Whether the arrays were copied; if not, an exception is pending. */
static int hold(JNIEnv *env, struct held *held, jobjectArray stop, jintArray tokens, jfloatArray biases,
                sllm_generate_options *options) {
    jsize count = tokens && biases ? (*env)->GetArrayLength(env, tokens) : 0, i;
    held->stops = stop ? (*env)->GetArrayLength(env, stop) : 0;
    if (count > 0 && (*env)->GetArrayLength(env, biases) != count) {
        throw_message(env, SLLM_STATUS_INVALID_ARGUMENT, "each biased token has one bias");
        return 0;
    }
    held->stop = calloc((size_t)held->stops + 1, sizeof *held->stop);
    held->bias = calloc((size_t)count + 1, sizeof *held->bias);
    if (held->stop == NULL || held->bias == NULL) {
        throw_message(env, SLLM_STATUS_OUT_OF_MEMORY, "no memory for the options of an answer");
        return 0;
    }
    for (i = 0; i < held->stops; i++) {
        jobject text = (*env)->GetObjectArrayElement(env, stop, i);
        held->stop[i] = text_of(env, (jbyteArray)text);
        (*env)->DeleteLocalRef(env, text);
        if (held->stop[i] == NULL) return 0;
    }
    for (i = 0; i < count; i++) {
        jint token;
        (*env)->GetIntArrayRegion(env, tokens, i, 1, &token);
        (*env)->GetFloatArrayRegion(env, biases, i, 1, &held->bias[i].bias);
        held->bias[i].token = (uint32_t)token;
    }
    options->stop = (const char *const *)held->stop;
    options->stop_count = (size_t)held->stops;
    options->bias = held->bias;
    options->bias_count = (size_t)count;
    return 1;
}

static int32_t generate(JNIEnv *env, struct conversation *it, jbyteArray prompt, const sllm_generate_options *options,
                        sllm_generation *result) {
    size_t length = 0;
    int32_t status = SLLM_STATUS_OUT_OF_MEMORY;
    jbyte *text;
    if (prompt == NULL) return sllm_chat_generate(it->chat, it->session, it->sampler, options, result);
    text = bytes_in(env, prompt, &length);
    if (text != NULL)
        status = sllm_generate(it->session, it->tokenizer, it->sampler, (const char *)text, length, options, result);
    done(env, prompt, text);
    return status;
}

/* Answers the messages, or continues `prompt` unless it is NULL. `dry` has the multiplier, the base, the length that is
 * free, and the number of last tokens. */
static jdoubleArray session_generate(JNIEnv *env, jclass self, jlong handle, jbyteArray prompt, jint max_tokens,
                                     jobjectArray stop, jintArray tokens, jfloatArray biases, jint logprobs,
                                     jlong grammar, jfloatArray dry, jobject sink) {
    struct conversation *it = prompt ? conversation(env, handle) : chatting(env, handle);
    struct receiver to = {env, sink};
    sllm_generate_options options;
    sllm_generation result = {0};
    struct held held = {NULL, 0, NULL};
    jfloat repetition[4] = {0, 1, 0, 0};
    int32_t status;
    (void)self;
    if (it == NULL) return NULL;
    if (sink == NULL || max_tokens < 1) {
        throw_message(env, SLLM_STATUS_INVALID_ARGUMENT,
                      sink ? "the most tokens to generate is at least 1" : "there is nothing to give the text to");
        return NULL;
    }
    sllm_generate_options_defaults(&options, sizeof options);
    options.max_tokens = (uint32_t)max_tokens;
    options.on_token = token;
    options.user = &to;
    result.struct_size = sizeof result;
    if (dry != NULL && (*env)->GetArrayLength(env, dry) == 4) (*env)->GetFloatArrayRegion(env, dry, 0, 4, repetition);
    options.dry_multiplier = repetition[0];
    options.dry_base = repetition[1];
    options.dry_allowed_length = (uint32_t)repetition[2];
    options.dry_last = (uint32_t)repetition[3];
    options.logprobs = (uint32_t)logprobs;
    options.grammar = (const sllm_grammar *)(intptr_t)grammar;
    status = hold(env, &held, stop, tokens, biases, &options) ? generate(env, it, prompt, &options, &result)
                                                              : SLLM_STATUS_INVALID_ARGUMENT;
    let_go(&held);
    if (!ok(env, status)) return NULL;
    {
        const double values[] = {(double)result.stop, (double)result.prompt_tokens, (double)result.generated_tokens,
                                 result.first_token_seconds, result.prefill_tokens_per_second,
                                 result.decode_tokens_per_second, (double)result.stop_string,
                                 (double)result.forced_tokens};
        return doubles_of(env, values, sizeof values / sizeof *values);
    }
}

static void session_cancel(JNIEnv *env, jclass self, jlong handle) {
    struct conversation *it = conversation(env, handle);
    (void)self;
    if (it != NULL) ok(env, sllm_session_cancel(it->session));
}

static void session_reset_cancel(JNIEnv *env, jclass self, jlong handle) {
    struct conversation *it = conversation(env, handle);
    (void)self;
    /* Comes after a cancelled call: an exception may be pending, and this call cannot fail. */
    if (it != NULL) sllm_session_reset_cancel(it->session);
}

static jlong session_position(JNIEnv *env, jclass self, jlong handle) {
    struct conversation *it = conversation(env, handle);
    size_t position = 0;
    (void)self;
    if (it != NULL) ok(env, sllm_session_position(it->session, &position));
    return (jlong)position;
}

static void session_rewind(JNIEnv *env, jclass self, jlong handle, jlong position) {
    struct conversation *it = conversation(env, handle);
    (void)self;
    if (it != NULL) ok(env, sllm_session_rewind(it->session, position < 0 ? (size_t)-1 : (size_t)position));
}

static void session_set_sparsity(JNIEnv *env, jclass self, jlong handle, jint level) {
    struct conversation *it = conversation(env, handle);
    (void)self;
    if (it != NULL) ok(env, sllm_session_set_sparsity(it->session, level));
}

static jdouble session_set_pace(JNIEnv *env, jclass self, jlong handle, jdouble seconds_per_token, jfloat max_loss) {
    struct conversation *it = conversation(env, handle);
    double expected = 0;
    (void)self;
    if (it != NULL) ok(env, sllm_session_set_pace(it->session, seconds_per_token, max_loss, &expected));
    return expected;
}

static jdoubleArray session_stats(JNIEnv *env, jclass self, jlong handle) {
    struct conversation *it = conversation(env, handle);
    sllm_stats stats = {0};
    (void)self;
    stats.struct_size = sizeof stats;
    if (it == NULL || !ok(env, sllm_session_get_stats(it->session, &stats))) return NULL;
    {
        const double values[] = {(double)stats.prompt_tokens, (double)stats.decoded_tokens, (double)stats.weight_bytes,
                                 (double)stats.session_bytes, (double)stats.peak_memory_bytes, stats.density,
                                 stats.prefill_tokens_per_second, stats.decode_tokens_per_second};
        return doubles_of(env, values, sizeof values / sizeof *values);
    }
}

/* ---- Messages, state, grammars ---------------------------------------------------------------------------------- */

static void session_add_json(JNIEnv *env, jclass self, jlong handle, jbyteArray json) {
    struct conversation *it = chatting(env, handle);
    char *text = it ? text_of(env, json) : NULL;
    (void)self;
    if (text != NULL) ok(env, sllm_chat_add_json(it->chat, text));
    free(text);
}

static void session_set_variable(JNIEnv *env, jclass self, jlong handle, jbyteArray name, jbyteArray json) {
    struct conversation *it = chatting(env, handle);
    char *who = it ? text_of(env, name) : NULL;
    char *what = who && json ? text_of(env, json) : NULL;
    (void)self;
    if (who != NULL && (json == NULL || what != NULL)) ok(env, sllm_chat_set_variable(it->chat, who, what));
    free(what);
    free(who);
}

/* Whether the texts of a message were stored in the array, from `at` on: role and content, or with `whole` one of JSON. */
static int store_message(JNIEnv *env, const sllm_chat *chat, size_t index, int whole, jobjectArray all, jsize at) {
    const char *texts[2];
    size_t lengths[2];
    jsize k;
    int32_t status = whole ? sllm_chat_message_json(chat, index, &texts[0], &lengths[0])
                           : sllm_chat_message(chat, index, &texts[0], &lengths[0], &texts[1], &lengths[1]);
    if (!ok(env, status)) return 0;
    for (k = 0; k < (whole ? 1 : 2); k++) {
        jbyteArray text = bytes_of(env, texts[k], lengths[k]);
        if (text == NULL) return 0;
        (*env)->SetObjectArrayElement(env, all, at + k, text);
        (*env)->DeleteLocalRef(env, text);
    }
    return 1;
}

/* Roles and contents in turns, or with `whole` each message as JSON; none for a model without a chat template. They are
 * read from a fork: the chat's own texts would be freed by another thread that changes the chat meanwhile. */
static jobjectArray session_messages(JNIEnv *env, jclass self, jlong handle, jboolean whole) {
    struct conversation *it = conversation(env, handle);
    const size_t texts = whole ? 1 : 2;
    sllm_chat *chat = NULL;
    jclass bytes = it ? (*env)->FindClass(env, "[B") : NULL;
    jobjectArray all = NULL;
    size_t count = 0, i;
    (void)self;
    if (bytes == NULL || (it->chat != NULL && !ok(env, sllm_chat_fork(it->chat, &chat)))) return NULL;
    if (chat == NULL || ok(env, sllm_chat_count(chat, &count)))
        all = (*env)->NewObjectArray(env, (jsize)(texts * count), bytes, NULL);
    for (i = 0; all != NULL && i < count; i++)
        if (!store_message(env, chat, i, whole, all, (jsize)(texts * i))) all = NULL;
    sllm_chat_free(&chat);
    return all;
}

static void session_truncate(JNIEnv *env, jclass self, jlong handle, jint count) {
    struct conversation *it = chatting(env, handle);
    (void)self;
    if (it != NULL) ok(env, sllm_chat_truncate(it->chat, count < 0 ? (size_t)-1 : (size_t)count));
}

/* The state of the sampler, then that of the session. */
static jbyteArray session_save(JNIEnv *env, jclass self, jlong handle) {
    struct conversation *it = conversation(env, handle);
    size_t first = sllm_sampler_state_size(), size = 0, written = 0;
    jbyteArray bytes = NULL;
    char *state;
    (void)self;
    if (it == NULL || !ok(env, sllm_session_state_size(it->session, &size))) return NULL;
    state = first + size <= INT32_MAX ? malloc(first + size) : NULL;
    if (state == NULL) {
        throw_message(env, SLLM_STATUS_OUT_OF_MEMORY, "no memory for a state");
        return NULL;
    }
    if (ok(env, sllm_sampler_save(it->sampler, state, first)) && ok(env, sllm_session_save(it->session, state + first, size, &written)))
        bytes = bytes_of(env, state, first + written);
    free(state);
    return bytes;
}

static void session_load(JNIEnv *env, jclass self, jlong handle, jbyteArray state) {
    struct conversation *it = conversation(env, handle);
    size_t first = sllm_sampler_state_size(), size = 0;
    jbyte *bytes = it ? bytes_in(env, state, &size) : NULL;
    (void)self;
    if (bytes == NULL) return;
    if (size < first)
        throw_message(env, SLLM_STATUS_BAD_STATE, "the state is cut off");
    else if (ok(env, sllm_session_load(it->session, bytes + first, size - first)))
        ok(env, sllm_sampler_load(it->sampler, bytes, first));
    done(env, state, bytes);
}

static jlong session_fork(JNIEnv *env, jclass self, jlong handle) {
    struct conversation *from = conversation(env, handle), *it = from ? allocated(env) : NULL;
    void *state = it ? malloc(sllm_sampler_state_size()) : NULL;
    (void)self;
    if (it == NULL) return 0;
    it->sampling = from->sampling;
    if (ok(env, sllm_model_retain(from->model))) it->model = from->model;
    if (state == NULL) throw_message(env, SLLM_STATUS_OUT_OF_MEMORY, "no memory for a state");
    if (state && it->model && ok(env, sllm_tokenizer_new(it->model, &it->tokenizer))
        && ok(env, sllm_sampler_new(&it->sampling, &it->sampler))
        && ok(env, sllm_sampler_save(from->sampler, state, sllm_sampler_state_size()))
        && ok(env, sllm_sampler_load(it->sampler, state, sllm_sampler_state_size()))
        && ok(env, sllm_session_fork(from->session, &it->session))
        && (from->chat == NULL || ok(env, sllm_chat_fork(from->chat, &it->chat)))) {
        free(state);
        return (jlong)(intptr_t)it;
    }
    free(state);
    release(it);
    return 0;
}

static jlong grammar_new(JNIEnv *env, jclass self, jlong handle, jint kind, jbyteArray rules) {
    struct conversation *it = conversation(env, handle);
    size_t length = 0;
    jbyte *text = it ? bytes_in(env, rules, &length) : NULL;
    sllm_grammar *grammar = NULL;
    (void)self;
    if (text != NULL) ok(env, sllm_grammar_new(it->tokenizer, kind, (const char *)text, length, &grammar));
    done(env, rules, text);
    return (jlong)(intptr_t)grammar;
}

static void grammar_free(JNIEnv *env, jclass self, jlong handle) {
    sllm_grammar *grammar = (sllm_grammar *)(intptr_t)handle;
    (void)self;
    ok(env, sllm_grammar_free(&grammar));
}

static jbyteArray parse_tool_calls(JNIEnv *env, jclass self, jbyteArray answer) {
    size_t length = 0, size = 0;
    jbyte *text = bytes_in(env, answer, &length);
    jbyteArray bytes = NULL;
    char *json = NULL;
    (void)self;
    if (text != NULL && ok(env, sllm_parse_tool_calls((const char *)text, length, NULL, 0, &size))) {
        json = malloc(size + 1);
        if (json == NULL)
            throw_message(env, SLLM_STATUS_OUT_OF_MEMORY, "no memory for tool calls");
        else if (ok(env, sllm_parse_tool_calls((const char *)text, length, json, size + 1, &size)))
            bytes = bytes_of(env, json, size);
    }
    free(json);
    done(env, answer, text);
    return bytes;
}

/* ---- Registration ----------------------------------------------------------------------------------------------- */

#define PROGRESS "Lorg/shadowllm/Progress;"
#define SINK "Lorg/shadowllm/TokenSink;"

static const JNINativeMethod methods[] = {
    {"modelOpen", "([BZZ" PROGRESS ")J", (void *)model_open},
    {"modelOpenFd", "(IJJZZ" PROGRESS ")J", (void *)model_open_fd},
    {"modelFree", "(J)V", (void *)model_free},
    {"modelInfo", "(J)[J", (void *)model_info},
    {"modelSessionBytes", "(JII)J", (void *)model_session_bytes},
    {"sessionNew", "(JIIFIFFFFFJI)J", (void *)session_new},
    {"sessionFree", "(J)V", (void *)session_free},
    {"sessionAdd", "(J[B[B)V", (void *)session_add},
    {"sessionClear", "(J)V", (void *)session_clear},
    {"sessionPrompt", "(J)[B", (void *)session_prompt},
    {"sessionGenerate", "(J[BI[[B[I[FIJ[F" SINK ")[D", (void *)session_generate},
    {"sessionCancel", "(J)V", (void *)session_cancel},
    {"sessionResetCancel", "(J)V", (void *)session_reset_cancel},
    {"sessionPosition", "(J)J", (void *)session_position},
    {"sessionRewind", "(JJ)V", (void *)session_rewind},
    {"sessionSetSparsity", "(JI)V", (void *)session_set_sparsity},
    {"sessionSetPace", "(JDF)D", (void *)session_set_pace},
    {"sessionStats", "(J)[D", (void *)session_stats},
    {"sessionAddJson", "(J[B)V", (void *)session_add_json},
    {"sessionSetVariable", "(J[B[B)V", (void *)session_set_variable},
    {"sessionMessages", "(JZ)[[B", (void *)session_messages},
    {"sessionTruncate", "(JI)V", (void *)session_truncate},
    {"sessionSave", "(J)[B", (void *)session_save},
    {"sessionLoad", "(J[B)V", (void *)session_load},
    {"sessionFork", "(J)J", (void *)session_fork},
    {"grammarNew", "(JI[B)J", (void *)grammar_new},
    {"grammarFree", "(J)V", (void *)grammar_free},
    {"parseToolCalls", "([B)[B", (void *)parse_tool_calls},
};

static jclass global_class(JNIEnv *env, const char *name) {
    jclass found = (*env)->FindClass(env, name), global = NULL;
    if (found != NULL) {
        global = (*env)->NewGlobalRef(env, found);
        (*env)->DeleteLocalRef(env, found);
    }
    return global;
}

/* Looks up the classes and methods once, on a thread that has the application's class loader. */
JNIEXPORT jint JNI_OnLoad(JavaVM *vm, void *reserved) {
    JNIEnv *env;
    jclass natives, receiver_class;
    (void)reserved;
    if (sllm_version() / 1000 != SLLM_VERSION / 1000) return JNI_ERR;
    if ((*vm)->GetEnv(vm, (void **)&env, JNI_VERSION_1_6) != JNI_OK) return JNI_ERR;
    exception_class = global_class(env, "org/shadowllm/ShadowllmException");
    if (exception_class == NULL) return JNI_ERR;
    exception_new = (*env)->GetMethodID(env, exception_class, "<init>", "(I[B)V");
    if (exception_new == NULL) return JNI_ERR;
    receiver_class = (*env)->FindClass(env, "org/shadowllm/Progress");
    if (receiver_class == NULL) return JNI_ERR;
    on_progress = (*env)->GetMethodID(env, receiver_class, "onProgress", "(JJ)Z");
    (*env)->DeleteLocalRef(env, receiver_class);
    if (on_progress == NULL) return JNI_ERR;
    receiver_class = (*env)->FindClass(env, "org/shadowllm/TokenSink");
    if (receiver_class == NULL) return JNI_ERR;
    on_token = (*env)->GetMethodID(env, receiver_class, "onToken", "([BDDIZD[I[F)Z");
    (*env)->DeleteLocalRef(env, receiver_class);
    if (on_token == NULL) return JNI_ERR;
    natives = (*env)->FindClass(env, "org/shadowllm/Native");
    if (natives == NULL) return JNI_ERR;
    if ((*env)->RegisterNatives(env, natives, methods, sizeof methods / sizeof *methods) != JNI_OK) return JNI_ERR;
    (*env)->DeleteLocalRef(env, natives);
    return JNI_VERSION_1_6;
}
