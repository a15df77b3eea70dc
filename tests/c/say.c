/* say MODEL SEED TOKENS PROMPT: writes the model's answer, and nothing else, to standard output, for comparisons. */
#include <shadowllm.h>

#include <stdio.h>
#include <stdlib.h>

static int32_t print(void *user, const sllm_token *token) {
    (void)user;
    fwrite(token->text, 1, token->text_length, stdout);
    return 0;
}

int main(int argc, char **argv) {
    sllm_model *model = NULL;
    sllm_tokenizer *tokenizer = NULL;
    sllm_session *session = NULL;
    sllm_sampler *sampler = NULL;
    sllm_chat *chat = NULL;
    sllm_sampler_options sampling;
    sllm_generate_options options;
    sllm_model_info info;
    int32_t status;
    if (argc != 5) return 2;
    info.struct_size = sizeof info;
    sllm_sampler_options_defaults(&sampling, sizeof sampling);
    sllm_generate_options_defaults(&options, sizeof options);
    sampling.seed = strtoull(argv[2], NULL, 10);
    options.max_tokens = (uint32_t)atoi(argv[3]);
    options.on_token = print;
    if ((status = sllm_model_open(argv[1], NULL, &model)) == SLLM_STATUS_OK
        && (status = sllm_model_get_info(model, &info)) == SLLM_STATUS_OK
        && (status = sllm_tokenizer_new(model, &tokenizer)) == SLLM_STATUS_OK
        && (status = sllm_session_new(model, NULL, &session)) == SLLM_STATUS_OK
        && (status = sllm_sampler_new(&sampling, &sampler)) == SLLM_STATUS_OK) {
        if (!info.has_chat_template)
            status = sllm_generate(session, tokenizer, sampler, argv[4], SLLM_NUL_TERMINATED, &options, NULL);
        else if ((status = sllm_chat_new(tokenizer, &chat)) == SLLM_STATUS_OK
                 && (status = sllm_chat_add(chat, "user", argv[4])) == SLLM_STATUS_OK)
            status = sllm_chat_generate(chat, session, sampler, &options, NULL);
    }
    if (status != SLLM_STATUS_OK) fprintf(stderr, "%s\n", sllm_last_error_message());
    sllm_chat_free(&chat);
    sllm_sampler_free(&sampler);
    sllm_session_free(&session);
    sllm_tokenizer_free(&tokenizer);
    sllm_model_free(&model);
    return status == SLLM_STATUS_OK ? 0 : 1;
}
