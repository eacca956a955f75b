"""The training run that peakcast's flags describe, as a PyTorch program of its own.

    python described_run.py SPEC.json

SPEC.json holds `inputs`, the flags as every report echoes them, and `config`, the fields of the model's
config.json. It is what `--engine captured` runs on the emulated card, and it runs on a real one as well.
The loop is the one that `peakcast predict --help` describes.
"""
import contextlib
import json
import re
import sys

try:
    import torch
    import transformers
except ImportError as missing:
    sys.exit(f"error: the captured engine runs PyTorch and transformers: {missing}")

# Head by task. "auto" is the class that the config's `architectures` names.
HEADS = {
    "mlm": "AutoModelForMaskedLM",
    "pretraining": "AutoModelForPreTraining",
    "causal-lm": "AutoModelForCausalLM",
    "classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "speech": "AutoModelForSpeechSeq2Seq",
    "vision-language": "AutoModelForImageTextToText",
}
# The task that a class name's ending says, the longest first.
TASK_OF_CLASS = {
    "ForMaskedLM": "mlm",
    "ForPreTraining": "pretraining",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Left in full precision by 4- and 8-bit loading, as transformers does.
NEVER_QUANTIZED = ("lm_head", "score", "classifier", "embed_out")


class Refused(Exception):
    """What the flags ask for and this program does not do."""


def config_of(spec):
    inputs = spec["inputs"]
    if spec["config"] is None:
        try:
            fields = transformers.AutoConfig.from_pretrained(inputs["model"], local_files_only=True).to_dict()
        except OSError as error:
            raise Refused(f"model '{inputs['model']}' is neither built in, nor a file, nor in the local "
                          "Hugging Face cache") from error
    else:
        fields = dict(spec["config"])
    kind = fields.pop("model_type", None)
    if kind is None:
        raise Refused("the config names no model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise Refused(f"transformers {transformers.__version__} knows no model_type '{kind}'")
    fields.setdefault("use_cache", False)
    config = transformers.AutoConfig.for_model(kind, **fields)
    for word in inputs["set"]:
        key, _, text = word.partition("=")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        setattr(config, key, value)
    config._attn_implementation = inputs["attention"]
    return config


def task_of(spec, config):
    """The task, and the class that makes the model (None: by the task)."""
    if spec["inputs"]["task"]:
        return spec["inputs"]["task"], None
    for name in config.architectures or ():
        cls = getattr(transformers, name, None)
        for ending, task in TASK_OF_CLASS.items():
            if name.endswith(ending):
                return task, cls
        if name.endswith("ForConditionalGeneration"):
            if hasattr(config, "vision_config"):
                return "vision-language", cls
            if getattr(config, "main_input_name", "") == "input_features" or hasattr(config, "num_mel_bins"):
                return "speech", cls
            return "seq2seq", cls
        if name.endswith("Model") and hasattr(config, "vision_config") and hasattr(config, "text_config"):
            return "contrastive", cls
    raise Refused("the config's architectures name no head that trains: give --task")


@contextlib.contextmanager
def unfilled():
    """Models are made without drawing their weights: values decide no size here."""
    names = ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_")
    tensor = {n: getattr(torch.Tensor, n) for n in names if hasattr(torch.Tensor, n)}
    init = {n: getattr(torch.nn.init, n) for n in names}
    for name in tensor:
        setattr(torch.Tensor, name, lambda self, *a, **k: self)
    for name in init:
        setattr(torch.nn.init, name, lambda t, *a, **k: t)
    try:
        yield
    finally:
        for name, function in tensor.items():
            setattr(torch.Tensor, name, function)
        for name, function in init.items():
            setattr(torch.nn.init, name, function)


def build(spec, config, task, cls):
    with unfilled():
        if cls is not None:
            return cls(config)
        head = HEADS.get(task)
        if head is None:
            raise Refused(f"--task {task} names no head")
        return getattr(transformers, head).from_config(config)


def quantized(model, inputs):
    """The linear layers' weights as bitsandbytes keeps them, frozen as every other parameter."""
    import bitsandbytes as bnb

    double = inputs.get("double_quant", "on") == "on"
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, torch.nn.Linear) or name in NEVER_QUANTIZED:
                continue
            bias = child.bias is not None
            if inputs["quantize"] == "nf4":
                layer = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=bias,
                                          compute_dtype=torch.bfloat16, quant_type="nf4",
                                          compress_statistics=double, quant_storage=torch.uint8)
                layer.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4",
                                                 compress_statistics=double)
            else:
                layer = bnb.nn.Linear8bitLt(child.in_features, child.out_features, bias=bias,
                                            has_fp16_weights=False)
                layer.weight = bnb.nn.Int8Params(child.weight.data, requires_grad=False,
                                                 has_fp16_weights=False)
            if bias:
                layer.bias = child.bias
            setattr(module, name, layer)
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def with_lora(model, inputs, task):
    from peft import LoraConfig, get_peft_model

    targets = inputs.get("lora_targets") or "all-linear"
    if isinstance(targets, str) and targets != "all-linear":
        targets = targets.split(",")
    kinds = {"causal-lm": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classification": "SEQ_CLS",
             "token-classification": "TOKEN_CLS", "question-answering": "QUESTION_ANS"}
    rank = inputs["lora"]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=float(inputs.get("lora_dropout") or 0.0),
                        target_modules=targets, task_type=kinds.get(task))
    model = get_peft_model(model, config)
    if inputs["checkpoint"] != "none":
        model.enable_input_require_grads()
    return model


def prepared(spec, config, task, model):
    """The model as it is trained, still on the host."""
    inputs = spec["inputs"]
    if inputs.get("fused_loss") in ("liger",):
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as appliers

        if config.model_type not in appliers:
            raise Refused(f"Liger has no fused loss for {config.model_type}")
        appliers[config.model_type](rope=False, rms_norm=False, swiglu=False, cross_entropy=False,
                                    fused_linear_cross_entropy=True, model=model)
    precision = inputs["precision"]
    if precision in ("bf16", "fp16"):
        model = model.to(DTYPES[precision])
    if (inputs.get("quantize") or "none") != "none":
        quantized(model, inputs)
    if inputs.get("lora"):
        model = with_lora(model, inputs, task)
    if inputs.get("freeze"):
        pattern = re.compile(inputs["freeze"])
        for name, parameter in model.named_parameters():
            if pattern.search(name):
                parameter.requires_grad_(False)
    return model


def layers_of(model):
    """The repeated blocks that sharding wraps: the classes that transformers says not to split."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        names |= set(getattr(module, "_no_split_modules", None) or ())
    return {type(m) for m in model.modules() if type(m).__name__ in names}


def start_ranks(world):
    import os

    import torch.distributed as dist

    for name, value in (("RANK", "0"), ("WORLD_SIZE", str(world)), ("LOCAL_RANK", "0"),
                        ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29501")):
        os.environ.setdefault(name, value)
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    return int(os.environ["LOCAL_RANK"])


def shard_dtype(word):
    return None if word in (None, "same") else DTYPES[word]


def with_fsdp1(model, inputs, rank):
    from functools import partial

    from torch.distributed.fsdp import (BackwardPrefetch, CPUOffload, FullyShardedDataParallel, MixedPrecision,
                                        ShardingStrategy)
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    strategies = {"full": ShardingStrategy.FULL_SHARD, "grad-op": ShardingStrategy.SHARD_GRAD_OP,
                  "hybrid": ShardingStrategy.HYBRID_SHARD, "none": ShardingStrategy.NO_SHARD}
    prefetches = {"pre": BackwardPrefetch.BACKWARD_PRE, "post": BackwardPrefetch.BACKWARD_POST, "none": None}
    held = shard_dtype(inputs["shard_precision"])
    reduced = shard_dtype(inputs["reduce_precision"]) or held
    mixed = MixedPrecision(param_dtype=held, reduce_dtype=reduced, buffer_dtype=held) if held or reduced else None
    return FullyShardedDataParallel(
        model, auto_wrap_policy=partial(transformer_auto_wrap_policy, transformer_layer_cls=layers_of(model)),
        sharding_strategy=strategies[inputs["shard"]], mixed_precision=mixed, device_id=rank, use_orig_params=True,
        limit_all_gathers=inputs["limit_all_gathers"] == "on", forward_prefetch=inputs["forward_prefetch"] == "on",
        backward_prefetch=prefetches[inputs["backward_prefetch"]],
        cpu_offload=CPUOffload(offload_params=True) if "params" in offloads(inputs) else None)


def with_fsdp2(model, inputs, mesh):
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    options = dict(mesh=mesh, reshard_after_forward=inputs["reshard_after_forward"] == "on")
    held = shard_dtype(inputs["shard_precision"])
    reduced = shard_dtype(inputs["reduce_precision"])
    if held or reduced:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=held, reduce_dtype=reduced)
    if "params" in offloads(inputs):
        options["offload_policy"] = CPUOffloadPolicy()
    layers = layers_of(model)
    for module in list(model.modules()):
        if type(module) in layers:
            fully_shard(module, **options)
    fully_shard(model, **options)
    if "params" not in offloads(inputs):
        model.to("cuda")
    return model


def on_card(model, inputs):
    """Moves or shards the model as --parallel says."""
    parallel = inputs["parallel"]
    if parallel == "none":
        return model.to("cuda")
    rank = start_ranks(inputs["world"])
    if parallel == "ddp":
        return torch.nn.parallel.DistributedDataParallel(
            model.to("cuda"), device_ids=[rank], gradient_as_bucket_view=inputs["bucket_view"] == "on",
            bucket_cap_mb=inputs["bucket_mb"])
    if parallel == "fsdp1":
        return with_fsdp1(model, inputs, rank)
    from torch.distributed.device_mesh import init_device_mesh

    if parallel == "fsdp2":
        return with_fsdp2(model, inputs, init_device_mesh("cuda", (inputs["world"],)))
    if parallel in ("tp", "fsdp2+tp"):
        degree = inputs.get("tensor_parallel") or (inputs["world"] if parallel == "tp" else 1)
        if inputs["world"] % degree:
            raise Refused(f"--world {inputs['world']} is no multiple of --tensor-parallel {degree}")
        mesh = init_device_mesh("cuda", (inputs["world"] // degree, degree), mesh_dim_names=("data", "tensor"))
        model = tensor_parallel(model.to("cuda"), mesh["tensor"])
        return with_fsdp2(model, inputs, mesh["data"]) if inputs["world"] > degree else model
    raise Refused(f"--parallel {parallel} is not captured yet: 'peakcast capture -- PROGRAM' runs a program of your own")


def tensor_parallel(model, mesh):
    """By the plan that transformers keeps with each family."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    styles = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
    plan = dict(getattr(model.config, "base_model_tp_plan", None) or {})
    if not plan:
        raise Refused(f"transformers keeps no tensor-parallel plan for {model.config.model_type}")
    base = model.base_model
    for name, module in list(base.named_modules()):
        pattern = re.sub(r"\.\d+(?=\.|$)", ".*", name)
        style = styles.get(plan.get(pattern))
        if style is not None:
            parallelize_module(module, mesh, style())
    return model


def checkpointed(model, inputs):
    kind = inputs["checkpoint"]
    if kind == "none":
        return
    inner = model.module if hasattr(model, "module") else model
    if kind in ("full", "full-reentrant"):
        inner.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": kind == "full-reentrant"})
        return
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing, checkpoint_wrapper

    layers = layers_of(inner)
    if kind.startswith("every-"):
        every = int(kind.removeprefix("every-"))
        blocks = [m for m in inner.modules() if type(m) in layers]
        chosen = {id(m) for m in blocks[::every]}
        apply_activation_checkpointing(inner, checkpoint_wrapper_fn=checkpoint_wrapper,
                                       check_fn=lambda m: id(m) in chosen)
        return
    if kind == "selective":  # products are kept, all else is computed again
        from functools import partial

        from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

        kept = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default,
                torch.ops.aten._scaled_dot_product_flash_attention.default,
                torch.ops.aten._scaled_dot_product_efficient_attention.default,
                torch.ops.aten._scaled_dot_product_cudnn_attention.default}

        def policy(context, op, *args, **kwargs):
            return CheckpointPolicy.MUST_SAVE if op in kept else CheckpointPolicy.PREFER_RECOMPUTE

        wrapper = partial(checkpoint_wrapper, context_fn=partial(create_selective_checkpoint_contexts, policy))
        apply_activation_checkpointing(inner, checkpoint_wrapper_fn=wrapper, check_fn=lambda m: type(m) in layers)
        return
    raise Refused(f"--checkpoint {kind} is not known")


def offloads(inputs):
    return [word for word in (inputs.get("offload") or "").split(",") if word and word != "none"]


def optimizer_of(model, inputs):
    name = inputs["optimizer"]
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise Refused("no parameter trains: --freeze takes them all")
    optim = torch.optim
    plain = {
        "adamw": lambda: optim.AdamW(parameters, lr=1e-5),
        "adamw-fused": lambda: optim.AdamW(parameters, lr=1e-5, fused=True),
        "adamw-single": lambda: optim.AdamW(parameters, lr=1e-5, foreach=False),
        "adam": lambda: optim.Adam(parameters, lr=1e-5),
        "sgd": lambda: optim.SGD(parameters, lr=1e-3, momentum=0.9),
        "sgd-plain": lambda: optim.SGD(parameters, lr=1e-3),
        "rmsprop": lambda: optim.RMSprop(parameters, lr=1e-3),
        "adafactor": lambda: optim.Adafactor(parameters, lr=1e-3),
    }
    if name in plain:
        return plain[name]()
    if name == "muon":  # for matrices, as its authors say; the rest by AdamW
        matrices = [p for p in parameters if p.ndim == 2]
        others = [p for p in parameters if p.ndim != 2]
        return Several([optim.Muon(matrices, lr=1e-3)] + ([optim.AdamW(others, lr=1e-5)] if others else []))
    import bitsandbytes as bnb

    eight_bit = {
        "adamw8bit": bnb.optim.AdamW8bit,
        "paged-adamw8bit": bnb.optim.PagedAdamW8bit,
        "lion": bnb.optim.Lion,
        "lion8bit": bnb.optim.Lion8bit,
    }
    if name not in eight_bit:
        raise Refused(f"--optimizer {name} is not known")
    return eight_bit[name](parameters, lr=1e-5)


class Several:
    """Optimizers that step together."""

    def __init__(self, optimizers):
        self.optimizers = optimizers

    def zero_grad(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


def image_size_of(config, inputs):
    """(height, width) of --images WxH, or what the config says."""
    if inputs.get("images"):
        width, _, height = inputs["images"].partition("x")
        return int(height), int(width)
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None) or 224
    return (size, size) if isinstance(size, int) else tuple(size)


def batch_of(task, config, inputs, batch, seq, generator):
    text = getattr(config, "text_config", config)
    if task == "image-classification":
        height, width = image_size_of(config, inputs)
        channels = getattr(config, "num_channels", 3)
        return dict(pixel_values=torch.randn(batch, channels, height, width, generator=generator),
                    labels=torch.randint(0, config.num_labels, (batch,), generator=generator))
    vocab = text.vocab_size
    ids = torch.randint(min(5, vocab - 1), vocab, (batch, seq), generator=generator)
    if task == "speech":
        frames = getattr(config, "max_source_positions", 1500) * 2
        target = inputs.get("target_seq") or seq
        return dict(input_features=torch.randn(batch, config.num_mel_bins, frames, generator=generator),
                    labels=torch.randint(5, vocab, (batch, target), generator=generator))
    if task == "seq2seq":
        target = inputs.get("target_seq") or seq
        return dict(input_ids=ids, attention_mask=torch.ones_like(ids),
                    labels=torch.randint(5, vocab, (batch, target), generator=generator))
    if task == "contrastive":
        height, width = image_size_of(config, inputs)
        return dict(input_ids=ids, attention_mask=torch.ones_like(ids),
                    pixel_values=torch.randn(batch, 3, height, width, generator=generator), return_loss=True)
    if task == "causal-lm":
        return dict(input_ids=ids, labels=ids.clone())
    data = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
    if inputs.get("token_types", "on") == "on" and getattr(config, "type_vocab_size", 0) > 0:
        data["token_type_ids"] = torch.zeros_like(ids)
    if task in ("mlm", "pretraining"):
        labels = ids.clone()
        labels[torch.rand(batch, seq, generator=generator) > 0.15] = -100
        data["labels"] = labels
        if task == "pretraining" and config.model_type == "bert":
            data["next_sentence_label"] = torch.randint(0, 2, (batch,), generator=generator)
    elif task == "classification":
        data["labels"] = torch.randint(0, config.num_labels, (batch,), generator=generator)
    elif task == "token-classification":
        data["labels"] = torch.randint(0, config.num_labels, (batch, seq), generator=generator)
    elif task == "question-answering":
        data["start_positions"] = torch.randint(0, seq, (batch,), generator=generator)
        data["end_positions"] = torch.randint(0, seq, (batch,), generator=generator)
    else:
        raise Refused(f"no batch is known for --task {task}")
    return data


def shapes_of(inputs):
    if inputs.get("batches"):
        return [tuple(int(n) for n in word.split("x")) for word in inputs["batches"].split(",")]
    return [(inputs["batch"], inputs["seq"])]


def moved(data):
    return {key: value.to("cuda") if torch.is_tensor(value) else value for key, value in data.items()}


def train(model, task, config, inputs):
    optimizer = optimizer_of(model, inputs)
    precision = inputs["precision"]
    amp = precision.endswith("-amp")
    scaler = torch.amp.GradScaler("cuda") if precision == "fp16-amp" else None
    generator = torch.Generator().manual_seed(7)
    shapes = shapes_of(inputs)
    saved = torch.autograd.graph.save_on_cpu if "activations" in offloads(inputs) else contextlib.nullcontext
    accumulate = inputs["accumulate"]
    for iteration in range(inputs["iterations"]):
        if inputs["zero_grad"] == "before":
            optimizer.zero_grad()
        for _ in range(accumulate):
            batch, seq = shapes[iteration % len(shapes)]
            data = moved(batch_of(task, config, inputs, batch, seq, generator))
            with saved():
                if amp:
                    with torch.autocast("cuda", dtype=DTYPES[precision.removesuffix("-amp")]):
                        out = model(**data)
                        loss = out.loss
                else:
                    out = model(**data)
                    loss = out.loss
            if accumulate > 1:
                loss = loss / accumulate
            (scaler.scale(loss) if scaler else loss).backward()
        if inputs["clip_grad"]:
            if scaler:
                scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        if inputs["zero_grad"] == "after":
            optimizer.zero_grad()
        torch.cuda.synchronize()


def main(path):
    with open(path) as file:
        spec = json.load(file)
    inputs = spec["inputs"]
    torch.manual_seed(0)
    config = config_of(spec)
    task, cls = task_of(spec, config)
    model = prepared(spec, config, task, build(spec, config, task, cls))
    torch.backends.cuda.matmul.allow_tf32 = True
    model = on_card(model, inputs)
    checkpointed(model, inputs)
    model.train()
    if inputs.get("compile"):
        model = torch.compile(model)
    train(model, task, config, inputs)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError:  # peakcast says it in its own words
        sys.exit(1)
