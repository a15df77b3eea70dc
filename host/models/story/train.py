"""Trains the story model, an OPT (pre-norm, ReLU, tied embeddings), and writes a Hugging Face folder.

    python3 stories.py TEXT
    python3 train.py TEXT OUT --minutes 80                        # OUT/checkpoint.pt every few minutes
    python3 train.py TEXT OUT --minutes 60 --resume               # continues; the learning rate falls again from the start
    torchrun --nproc-per-node 2 train.py TEXT OUT ...             # two processes that share their gradients

The learning rate follows the clock, not the steps: a run ends on time on whatever machine it gets. Matrices between
layers learn by Muon, all else by AdamW. The penalty asks for few active neurons: the mean of the activations after ReLU
over their root mean square, which weights that shrink cannot please. It goes on working after the loss has settled: a
weight of 1 left some layers 0.4 % active after 700,000 tokens, and a third of a layer's neurons without any use.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

END = "</s>"
OFFSET = 2  # OPT's first position
CONFIG = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "activation_function": "relu", "vocab_size": 2048,
    "hidden_size": 256, "word_embed_proj_dim": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "ffn_dim": 1280,
    "max_position_embeddings": 512, "do_layer_norm_before": True, "_remove_final_layer_norm": False,
    "enable_bias": True, "layer_norm_elementwise_affine": True, "tie_word_embeddings": True, "dropout": 0.0,
    "attention_dropout": 0.0, "layerdrop": 0.0, "init_std": 0.02, "bos_token_id": 1, "eos_token_id": 1,
    "pad_token_id": 0, "use_cache": True, "dtype": "float16",
}
CHAT = ("{% for message in messages %}{% if message['role'] == 'assistant' %} {{ message['content'] | trim }}"
        "{% elif message['role'] == 'user' %}</s>Question: {{ message['content'] }}\nAnswer:{% endif %}{% endfor %}")


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (p(x).view(batch, length, self.heads, -1).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))
        y = attend(*(part.flatten(0, 1) for part in (q, k, v))).view(batch, self.heads, length, -1)
        return self.out_proj(y.transpose(1, 2).reshape(batch, length, width))


def attend(q, k, v, block=128):
    """Causal attention, `(rows, length, width)`. In blocks of positions with the library's products it takes 0.4 of the
    time of scaled_dot_product_attention in bfloat16 on a CPU."""
    parts = []
    for start in range(0, q.shape[1], block):
        stop = min(start + block, q.shape[1])
        mask = torch.full((stop - start, stop), -1e4, dtype=q.dtype).triu(start + 1)
        scores = torch.baddbmm(mask, q[:, start:stop], k[:, :stop].transpose(1, 2), alpha=q.shape[2] ** -0.5)
        parts.append(scores.softmax(-1) @ v[:, :stop])
    return torch.cat(parts, 1)


class Layer(nn.Module):
    def __init__(self, width, heads, neurons):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, neurons), nn.Linear(neurons, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        active = F.relu(self.fc1(self.final_layer_norm(x)))
        return x + self.fc2(active), active


class Opt(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config["hidden_size"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], width)
        self.embed_positions = nn.Embedding(config["max_position_embeddings"] + OFFSET, width)
        self.layers = nn.ModuleList(Layer(width, config["num_attention_heads"], config["ffn_dim"])
                                    for _ in range(config["num_hidden_layers"]))
        self.final_layer_norm = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = math.sqrt(2 * len(self.layers)) if "out_proj" in name or "fc2" in name else 1
                nn.init.normal_(p, std=config["init_std"] / scale)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids, count=False):
        """Logits, how spread out each layer's activations are and, in `count`, the share of them that is not zero."""
        x = self.embed_tokens(ids) + self.embed_positions.weight[OFFSET:OFFSET + ids.shape[1]]
        shares, spread = [], []
        for layer in self.layers:
            x, active = layer(x)
            mean = active.mean(-1, dtype=torch.float32)
            norm = torch.linalg.vector_norm(active, dim=-1, dtype=torch.float32)
            spread.append((mean / (norm * active.shape[-1] ** -0.5 + 1e-4)).mean())
            if count:
                shares.append((active > 0).float().mean())
        return F.linear(self.final_layer_norm(x), self.embed_tokens.weight), torch.stack(spread), shares


def tokenizer_of(text, out):
    """A byte-level BPE trained on the text, or the folder's own if it has one."""
    path = out / "tokenizer.json"
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train([str(text)], trainers.BpeTrainer(
            vocab_size=CONFIG["vocab_size"], special_tokens=["<pad>", END], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        tokenizer.save(str(path))
        (out / "tokenizer_config.json").write_text(json.dumps({
            "bos_token": END, "eos_token": END, "pad_token": "<pad>", "model_max_length": 512,
            "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT}, indent=1))
        (out / "config.json").write_text(json.dumps(CONFIG, indent=1))
    return Tokenizer.from_file(str(path))


def tokens_of(path, tokenizer):
    """All tokens of a text, with an </s> before each document, and the positions where documents begin."""
    parts = [d for d in path.read_text().split(END) if d]
    parts = [[1] + ids.ids for ids in tokenizer.encode_batch_fast(parts)]
    starts = numpy.cumsum([0] + [len(p) for p in parts])[:-1]
    return torch.tensor(numpy.concatenate(parts + [[1]]).astype(numpy.int64)), torch.tensor(starts)


def rows(data, batch, length, generator):
    """Random rows of the text, each from the beginning of a document, half of them without the </s> before it."""
    ids, starts = data
    starts = starts[starts < len(ids) - length - 1]
    at = starts[torch.randint(len(starts), (batch,), generator=generator)]
    at = at + torch.randint(2, (batch,), generator=generator)
    return torch.stack([ids[i:i + length + 1] for i in at])


@torch.no_grad()
def evaluate(model, data, length, batch=8, limit=64):
    """Perplexity and share of active neurons by layer on consecutive windows of a text."""
    ids = data[0]
    count = min(limit, (len(ids) - 1) // length)
    if not count:
        return float("nan"), torch.zeros(0)
    windows = torch.stack([ids[i * length:(i + 1) * length + 1] for i in range(count)])
    loss, shares = 0.0, 0.0
    for part in windows.split(batch):
        with torch.autocast("cpu", torch.bfloat16):
            logits, _, active = model(part[:, :-1], count=True)
        loss += F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
        shares = shares + torch.stack(active) * len(part)
    return math.exp(loss / (count * length)), shares / count


def export(model, out):
    """The weights as a Hugging Face folder has them, in half precision."""
    tensors = {f"model.decoder.{k}": v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    partial = out / "model.safetensors.part"
    save_file(tensors, str(partial), metadata={"format": "pt"})
    partial.rename(out / "model.safetensors")


def share(parameters, passed):
    """The means over all processes of the gradients and of the share of the time that has passed."""
    if not dist.is_initialized():
        return passed
    flat = torch.cat([p.grad.flatten() for p in parameters] + [torch.tensor([passed])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([p.numel() for p in parameters] + [1])
    for p, part in zip(parameters, parts):
        p.grad.copy_(part.view_as(p.grad))
    return parts[-1].item()


def save(path, state):
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(path)


def report(model, held, length, limit):
    for kind, data in held.items():
        perplexity, shares = evaluate(model, data, length, limit=limit)
        print(f"{kind}: perplexity {perplexity:.3f}, active neurons by layer "
              + ", ".join(f"{100 * s:.1f} %" for s in shares.tolist()), flush=True)


def options():
    args = argparse.ArgumentParser()
    args.add_argument("text", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--minutes", type=float, default=80)
    args.add_argument("--steps", type=int, help="number of steps, for short trials")
    args.add_argument("--batch", type=int, default=8, help="rows of each process and step")
    args.add_argument("--length", type=int, default=512)
    args.add_argument("--sparsity", type=float, default=0.1, help="weight of the penalty on active neurons")
    args.add_argument("--muon", type=float, default=0.02, help="learning rate of the matrices")
    args.add_argument("--adam", type=float, default=0.003, help="learning rate of all other parameters")
    args.add_argument("--threads", type=int, default=1)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--resume", action="store_true")
    return args.parse_args()


class Run:
    """The model with its optimizers, and how many tokens it has seen."""

    def __init__(self, args):
        self.args, self.tokens, self.checkpoint = args, 0, args.out / "checkpoint.pt"
        self.model = Opt(CONFIG)
        named = list(self.model.named_parameters())
        matrices = [p for name, p in named if p.dim() == 2 and "layers" in name]
        self.others = [p for name, p in named if p.dim() != 2 or "layers" not in name]
        self.parameters = matrices + self.others
        self.optimizers = [torch.optim.Muon(matrices, lr=args.muon, momentum=0.95, weight_decay=0.01),
                           torch.optim.AdamW(self.others, lr=args.adam, betas=(0.9, 0.95), weight_decay=0.0)]
        if args.resume:
            state = torch.load(self.checkpoint)
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"]):
                optimizer.load_state_dict(saved)
            self.tokens = state["tokens"]

    def save(self):
        save(self.checkpoint, {"model": self.model.state_dict(), "tokens": self.tokens,
                               "optimizers": [o.state_dict() for o in self.optimizers]})

    def step(self, part, rate, passed):
        """One step of training; the loss, and the share of the time that has passed, over all processes."""
        with torch.autocast("cpu", torch.bfloat16):
            logits, spread, _ = self.model(part[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
        (loss + self.args.sparsity * spread.mean()).backward()
        passed = share(self.parameters, passed)
        torch.nn.utils.clip_grad_norm_(self.others, 1.0)
        for optimizer, full in zip(self.optimizers, (self.args.muon, self.args.adam)):
            for group in optimizer.param_groups:
                group["lr"] = full * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item(), passed

    def learn(self, train, held, rank, workers):
        """Steps until the time is over; the first process prints them and writes checkpoints."""
        args = self.args
        generator = torch.Generator().manual_seed(args.seed + self.tokens + rank)
        began = saved_at = time.time()
        warm, at_first, step, passed = 10 if args.resume else 40, self.tokens, 0, 0.0
        while passed < 1:
            rate = min(1, (step + 1) / warm, (1 - passed) / 0.6)
            passed = max((time.time() - began) / (60 * args.minutes), step / args.steps if args.steps else 0)
            loss, passed = self.step(rows(train, args.batch, args.length, generator), rate, passed)
            step += 1
            self.tokens += workers * args.batch * args.length
            if rank == 0 and step % 20 == 0:
                speed = (self.tokens - at_first) / (time.time() - began)
                print(f"step {step} {100 * passed:.1f} % loss {loss:.3f} {speed:.0f} tokens/s", flush=True)
            if rank == 0 and time.time() - saved_at > 300:
                saved_at = time.time()
                self.save()
                report(self.model, held, args.length, 8)


def main():
    args = options()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rank, workers = 0, 1
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        rank, workers = dist.get_rank(), dist.get_world_size()
    args.out.mkdir(exist_ok=True)
    if rank == 0:
        tokenizer_of(args.text / "train.txt", args.out)
    if workers > 1:
        dist.barrier()
    tokenizer = tokenizer_of(args.text / "train.txt", args.out)
    train = tokens_of(args.text / "train.txt", tokenizer)
    held = {kind: tokens_of(args.text / f"{kind}.txt", tokenizer) for kind in ("stories", "questions")}
    run = Run(args)
    print(f"{sum(p.numel() for p in run.parameters)} parameters, {len(train[0])} tokens", flush=True)
    run.learn(train, held, rank, workers)
    if rank == 0:
        run.save()
        export(run.model, args.out)
        print(f"{run.tokens} tokens seen")
        report(run.model, held, args.length, 64)


if __name__ == "__main__":
    main()
