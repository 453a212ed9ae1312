// llama.cpp through its C interface: tokens per second at batch 1, 8 and 32, and log-probs of given rows.
//
//     llama_sampling time  MODEL.gguf PROMPTS.jsonl THREADS NEW     a line of JSON
//     llama_sampling check MODEL.gguf ROWS.jsonl THREADS            a JSON array of log-probs for each row
//
// All sequences of a batch go through one llama_decode per token; weights and key/value cache are f32. `bN_tok_s`
// draws with llama.cpp's own sampler at temperature 1 over the whole vocabulary; `bN_decode_tok_s` draws nothing and
// feeds tokens of the prompt, so it is the speed of the model alone. Of flash attention and the plain one, and of one
// cache for all sequences and one for each, the fastest in a first try is timed.

#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

using Rows = std::vector<std::vector<llama_token>>;

[[noreturn]] static void fail(const char * what) {
    std::fprintf(stderr, "llama_sampling: %s\n", what);
    std::exit(1);
}

static Rows read_rows(const char * path) {
    std::ifstream file(path);
    if (!file) fail("cannot read the rows");
    Rows rows;
    for (std::string line; std::getline(file, line);) {
        std::vector<llama_token> row;
        for (const char * at = line.c_str(); *at;) {
            char * end = nullptr;
            const long id = std::strtol(at, &end, 10);
            if (end == at) { ++at; continue; }
            row.push_back((llama_token) id);
            at = end;
        }
        rows.push_back(row);
    }
    return rows;
}

struct Setting {
    bool flash;
    bool unified;
};

static llama_context * open(llama_model * model, int sequences, int tokens, int threads, Setting setting) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = sequences * tokens;
    params.n_batch = params.n_ubatch = std::max(sequences * tokens, 32);
    params.n_seq_max = sequences;
    params.n_threads = params.n_threads_batch = threads;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = setting.flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.kv_unified = setting.unified;
    params.no_perf = true;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) fail("no context");
    return context;
}

// A batch that is filled anew for every step.
struct Batch {
    llama_batch b;
    explicit Batch(int tokens) : b(llama_batch_init(tokens, 0, 1)) {}
    ~Batch() { llama_batch_free(b); }
    void add(llama_token token, int position, int sequence, bool wanted) {
        const int i = b.n_tokens++;
        b.token[i] = token;
        b.pos[i] = position;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = sequence;
        b.logits[i] = wanted;
    }
    void decode(llama_context * context) {
        if (llama_decode(context, b) != 0) fail("llama_decode failed");
    }
};

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static double seconds_of_one(const std::function<void()> & work) {
    const double before = now();
    work();
    return now() - before;
}

// Median seconds of at least five times and half a second, but no longer than ten.
static double seconds_of(const std::function<void()> & work) {
    std::vector<double> seconds;
    for (const double start = now(); (seconds.size() < 5 || now() - start < 0.5) && now() - start < 10.0;) {
        seconds.push_back(seconds_of_one(work));
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

// `fresh` new tokens for each of the first n prompts.
static void generate(llama_context * context, llama_sampler * sampler, const Rows & prompts, int n, int fresh) {
    llama_memory_clear(llama_get_memory(context), false);
    const int prompt = (int) prompts[0].size();
    Batch batch(n * prompt);
    std::vector<int> at(n);
    std::vector<llama_token> next(n);
    for (int s = 0; s < n; ++s) {
        for (int t = 0; t < prompt; ++t) batch.add(prompts[s][t], t, s, t + 1 == prompt);
        at[s] = batch.b.n_tokens - 1;
    }
    for (int t = 0; t < fresh; ++t) {
        batch.decode(context);
        for (int s = 0; s < n; ++s) {
            next[s] = sampler ? llama_sampler_sample(sampler, context, at[s]) : prompts[s][t % prompt];
        }
        if (!sampler) llama_synchronize(context);
        batch.b.n_tokens = 0;
        for (int s = 0; s < n; ++s) {
            at[s] = s;
            batch.add(next[s], prompt + t, s, true);
        }
    }
}

static void time_all(llama_model * model, const Rows & prompts, int threads, int fresh) {
    llama_sampler * sampler = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(sampler, llama_sampler_init_dist(0));
    std::printf("{");
    for (const int n : {1, 8, 32}) {
        llama_context * context = nullptr;
        const auto run = [&](bool draw) { generate(context, draw ? sampler : nullptr, prompts, n, fresh); };
        Setting fastest{};
        double least = INFINITY;
        for (const Setting setting : {Setting{false, false}, Setting{true, false}, Setting{false, true}, Setting{true, true}}) {
            if (n == 1 && setting.unified) continue;
            context = open(model, n, (int) prompts[0].size() + fresh, threads, setting);
            run(true);
            const double s = seconds_of_one([&] { run(true); });
            if (s < least) {
                least = s;
                fastest = setting;
            }
            llama_free(context);
        }
        context = open(model, n, (int) prompts[0].size() + fresh, threads, fastest);
        run(true);
        const double with = seconds_of([&] { run(true); }), without = seconds_of([&] { run(false); });
        llama_free(context);
        std::printf("%s\"b%d_tok_s\": %.1f, \"b%d_decode_tok_s\": %.1f", n == 1 ? "" : ", ", n, n * fresh / with, n,
                    n * fresh / without);
    }
    std::printf("}\n");
    llama_sampler_free(sampler);
}

// log P of each token of each row but the first, given those before it.
static void check(llama_model * model, const Rows & rows, int threads) {
    const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (const auto & row : rows) {
        llama_context * context = open(model, 1, (int) row.size(), threads, Setting{false, false});
        Batch batch((int) row.size());
        for (size_t t = 0; t < row.size(); ++t) batch.add(row[t], (int) t, 0, true);
        batch.decode(context);
        for (size_t t = 0; t + 1 < row.size(); ++t) {
            const float * logits = llama_get_logits_ith(context, (int) t);
            double most = logits[0], sum = 0.0;
            for (int i = 0; i < vocab; ++i) most = std::max(most, (double) logits[i]);
            for (int i = 0; i < vocab; ++i) sum += std::exp(logits[i] - most);
            std::printf("%s%.6f", t == 0 ? "[" : ", ", logits[row[t + 1]] - most - std::log(sum));
        }
        std::printf("]\n");
        llama_free(context);
    }
}

int main(int n, char ** args) {
    if (n < 5) fail("time|check MODEL.gguf ROWS.jsonl THREADS [NEW]");
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(args[2], llama_model_default_params());
    if (!model) fail("cannot load the model");
    const Rows rows = read_rows(args[3]);
    const int threads = std::atoi(args[4]);
    if (std::strcmp(args[1], "time") == 0 && n == 6) {
        time_all(model, rows, threads, std::atoi(args[5]));
    } else {
        check(model, rows, threads);
    }
    llama_model_free(model);
    llama_backend_free();
}
