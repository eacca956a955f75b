#!/usr/bin/env python3
"""Trains three models under PyTorch's own allocator and under policies of libpeakcast_allocator.so, and compares them.

usage: train_under_policies.py build/cuda/libpeakcast_allocator.so [--models bert llama lora]
           [--allocators native native peakcast native peakcast] [--steps 30]

Needs a GPU with 48 GiB, PyTorch and transformers. Each run is a process of its own with kernels whose results repeat;
what has no such kernel stops the run. A line a run: peak reserved and largest live sum (MiB), the first ten steps (s),
the median of the later ones (ms), time in the driver (ms), and whether its losses are the same bits as those of the
model's first run. With more than one "native" that also tells whether the kernels repeat, and how far times vary
between processes of one allocator.

Exit status: 0 all losses are the same, 1 some differ or a run failed, 2 bad usage.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

try:
    import torch
    import transformers
except ImportError as error:
    sys.exit(f"train_under_policies.py: {error}; it needs PyTorch, transformers and a GPU")

import train

WARM_UP = 10  # steps whose times stand apart


def length_between(low, high, generator):
    """A sequence length from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def bert():
    """BERT-large in bf16-amp: 128 to 512 tokens, as many sequences as fit in 8192."""
    model = transformers.BertForMaskedLM(transformers.BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096))

    def batch(step, generator):
        length = length_between(128, 512, generator)
        ids = torch.randint(5, 30000, (8192 // length, length), generator=generator)
        return dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids.clone())
    return model, batch, True


def llama():
    """A Llama of 1 B parameters in bf16 with checkpointing: 9.8k to 16.4k tokens, the second step the longest."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, intermediate_size=8192,
        vocab_size=32000, max_position_embeddings=1 << 17, tie_word_embeddings=True, use_cache=False))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def batch(step, generator):
        share = 1.0 if step == 1 else 0.6 + 0.4 * float(torch.rand(1, generator=generator))
        ids = torch.randint(5, 30000, (1, int(16384 * share)), generator=generator)
        return dict(input_ids=ids, labels=ids.clone())
    return model.to(torch.bfloat16), batch, False


class Adapter(torch.nn.Module):
    """A frozen linear layer with a LoRA of rank 16 beside it, in fp32."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = torch.nn.Linear(base.in_features, 16, bias=False)
        self.up = torch.nn.Linear(16, base.out_features, bias=False)
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x.to(self.down.weight.dtype))).to(x.dtype)


def lora():
    """LoRA on the attention of a frozen Qwen2-1.5B in bf16: four sequences of 256 to 2048 tokens."""
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        hidden_size=1536, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2, intermediate_size=8960,
        vocab_size=151936, tie_word_embeddings=True, use_cache=False)).to(torch.bfloat16)
    model.requires_grad_(False)
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, Adapter(getattr(layer.self_attn, name)))

    def batch(step, generator):
        ids = torch.randint(5, 150000, (4, length_between(256, 2048, generator)), generator=generator)
        return dict(input_ids=ids, labels=ids.clone())
    return model, batch, False


MODELS = {"bert": bert, "llama": llama, "lora": lora}


def be_deterministic():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # the fills would be part of what is timed
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)


def losses_and_times(name, steps):
    """Trains model `name`; each step's loss, and its seconds from and to an idle card."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model, batch, amp = MODELS[name]()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    generator = torch.Generator().manual_seed(1)
    losses, times = [], []
    for step in range(steps):
        inputs = {key: value.pin_memory() for key, value in batch(step, generator).items()}
        torch.cuda.synchronize()
        begin = time.perf_counter()
        optimizer.zero_grad()
        inputs = {key: value.to("cuda", non_blocking=True) for key, value in inputs.items()}
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
        losses.append(loss.item())
    return losses, times


def run_here(args):
    """The one run that `args` names, in this process; prints what was measured as a line of JSON."""
    name, policy = args.models[0], args.allocators[0]
    be_deterministic()
    device = torch.device("cuda", 0)
    if policy == "native":
        allocator = train.NativeAllocator(argparse.Namespace(limit=None), device)
    else:
        allocator = train.PluggedAllocator(
            argparse.Namespace(plugged=args.library, policy=policy, alloc_conf="", limit=None), device)
    losses, times = losses_and_times(name, args.steps)
    driver_ns = None if policy == "native" else allocator.books()["device_time_ns"]
    print(json.dumps(dict(allocator.figures(), losses=losses, times=times, driver_ns=driver_ns)), flush=True)
    os._exit(0)  # without destructors: an allocator must outlive its blocks


def run_apart(args, name, policy):
    """The same in a new process; None when it failed, after its error was shown."""
    command = [sys.executable, __file__, args.library, "--models", name, "--allocators", policy,
               "--steps", str(args.steps), "--here"]
    process = subprocess.run(command, env=os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
                             stdout=subprocess.PIPE, text=True)
    return json.loads(process.stdout.splitlines()[-1]) if process.returncode == 0 else None


def compare(args, name):
    """A line for each run of the model; whether all ran and had the same losses."""
    first, all_same = None, True
    for policy in args.allocators:
        run = run_apart(args, name, policy)
        if run is None:
            print(f"{name:6} {policy:14} failed", flush=True)
            all_same = False
            continue
        first = first or run
        same = run["losses"] == first["losses"]
        all_same = all_same and same
        driver = "" if run["driver_ns"] is None else f"{run['driver_ns'] / 1e6:.0f}"
        print(f"{name:6} {policy:14} {run['peak_reserved_bytes'] / 2**20:8.0f} "
              f"{run['peak_requested_bytes'] / 2**20:8.0f} {sum(run['times'][:WARM_UP]):8.2f} "
              f"{1e3 * statistics.median_high(run['times'][WARM_UP:]):8.2f} {driver:>6}  "
              f"{'same' if same else 'DIFFER'}", flush=True)
    return all_same


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", help="libpeakcast_allocator.so")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--allocators", nargs="+", default=["native", "native", "peakcast", "native", "peakcast"],
                        help='"native" or a policy, run in this order')
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps <= WARM_UP:
        parser.error(f"--steps: more than {WARM_UP}, whose times stand apart")
    if args.here:
        run_here(args)
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__, "transformers", transformers.__version__)
    print(f"{'model':6} {'allocator':14} {'reserved':>8} {'live':>8} {'first, s':>8} {'step, ms':>8} {'driver':>6}  "
          "losses")
    sys.exit(0 if all([compare(args, name) for name in args.models]) else 1)


if __name__ == "__main__":
    main()
