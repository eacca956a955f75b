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

from described_parallel import DTYPES, Refused, ZeroEngine, layers_of, offloads, on_card, start_ranks, zero_init

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
    "contrastive": "AutoModel",
    "ctc": "AutoModelForCTC",
    "audio-classification": "AutoModelForAudioClassification",
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
    "ForAudioClassification": "audio-classification",
    "ForCTC": "ctc",
    "ForSpeechSeq2Seq": "speech",
    "ForImageTextToText": "vision-language",
}
# Left in full precision by 4- and 8-bit loading, as transformers does.
NEVER_QUANTIZED = ("lm_head", "score", "classifier", "embed_out")


def first_line(error):
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
    try:
        config = transformers.AutoConfig.for_model(kind, **fields)
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise Refused(f"transformers {transformers.__version__} takes no such config of {kind}: {first_line(error)}") from error
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
        from transformers.initialization import no_init_weights
    except ImportError:  # before transformers 5
        no_init_weights = contextlib.nullcontext
    try:
        with no_init_weights():
            yield
    finally:
        for name, function in tensor.items():
            setattr(torch.Tensor, name, function)
        for name, function in init.items():
            setattr(torch.nn.init, name, function)


def build(spec, config, task, cls):
    head = HEADS.get(task)
    if cls is None and head is None:
        raise Refused(f"--task {task} names no head")

    def made():
        with unfilled():
            return cls(config) if cls is not None else getattr(transformers, head).from_config(config)

    try:
        return made()
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise Refused(f"transformers makes no model of this {config.model_type}: {first_line(error)}") from error
    except (TypeError, AssertionError, AttributeError, KeyError, NotImplementedError) as error:
        raise Refused(f"transformers makes no model of this {config.model_type}: {first_line(error)}") from error
    print(f"note: {config.model_type} has eager attention only", file=sys.stderr)
    config._attn_implementation = "eager"
    return made()


def bitsandbytes():
    try:
        import bitsandbytes as library
    except ImportError as missing:
        raise Refused(f"8- and 4-bit states are bitsandbytes', which this Python lacks: {missing}") from missing
    return library


def quantized(model, inputs):
    """The linear layers' weights as bitsandbytes keeps them, frozen as every other parameter."""
    bnb = bitsandbytes()
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
        try:
            from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as appliers
        except ImportError as missing:
            raise Refused(f"--fused-loss liger is liger-kernel's, which this Python lacks: {missing}") from missing
        if config.model_type not in appliers:
            raise Refused(f"Liger has no fused loss for {config.model_type}")
        appliers[config.model_type](rope=False, rms_norm=False, swiglu=False, cross_entropy=False,
                                    fused_linear_cross_entropy=True, model=model)
    precision = inputs["precision"]
    if precision in ("bf16", "fp16") and not inputs["parallel"].startswith("zero"):  # DeepSpeed does it itself
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


def optimizer_of(model, inputs):
    name = inputs["optimizer"]
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise Refused("no parameter trains: --freeze takes them all")
    if "optimizer" in offloads(inputs) and inputs["parallel"] in ("none", "ddp"):
        return OnHost(model, inputs)
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
    bnb = bitsandbytes()
    eight_bit = {
        "adamw8bit": bnb.optim.AdamW8bit,
        "paged-adamw8bit": bnb.optim.PagedAdamW8bit,
        "lion": bnb.optim.Lion,
        "lion8bit": bnb.optim.Lion8bit,
    }
    if name not in eight_bit:
        raise Refused(f"--optimizer {name} is not known")
    return eight_bit[name](parameters, lr=1e-5)


class OnHost:
    """An optimizer whose states, and copies of what it trains, live on the host. Gradients go there."""

    def __init__(self, model, inputs):
        self.here = [p for p in model.parameters() if p.requires_grad]
        holder = torch.nn.Module()
        holder.copies = torch.nn.ParameterList([p.detach().to("cpu") for p in self.here])
        if inputs["optimizer"] == "adamw-fused" or "8bit" in inputs["optimizer"]:
            raise Refused(f"--offload optimizer: {inputs['optimizer']} steps on the card only")
        self.optimizer = optimizer_of(holder, {**inputs, "offload": ""})
        self.copies = list(holder.copies)

    @property
    def param_groups(self):
        return [{"params": self.here}]

    def zero_grad(self):
        for parameter in self.here:
            parameter.grad = None

    @torch.no_grad()
    def step(self):
        for parameter, copy in zip(self.here, self.copies):
            copy.grad = None if parameter.grad is None else parameter.grad.to("cpu")
        self.optimizer.step()
        for parameter, copy in zip(self.here, self.copies):
            parameter.copy_(copy)


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


def image_tokens(config, height, width):
    """How many places of the sequence an image takes."""
    vision = config.vision_config
    merge, patch = getattr(vision, "spatial_merge_size", None), getattr(vision, "patch_size", None)
    if merge:  # Qwen2-VL and its kin: patches are merged before the language model
        return (height // patch) * (width // patch) // merge ** 2
    for name in ("mm_tokens_per_image", "num_query_tokens"):
        if getattr(config, name, None):
            return getattr(config, name)
    tokens = (height // patch) * (width // patch)
    if getattr(config, "scale_factor", None):
        return tokens // config.scale_factor ** 2
    ratio = getattr(config, "downsample_ratio", None)
    return int(tokens * ratio ** 2) if ratio else tokens


def image_batch(config, inputs, ids, generator):
    """Text with one image in each row, where the config says that images stand."""
    batch, seq = ids.shape
    height, width = image_size_of(config, inputs)
    vision = config.vision_config
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    token = getattr(config, "image_token_id", None)
    token = getattr(config, "image_token_index", None) if token is None else token
    if token is None:
        raise Refused(f"{config.model_type}: its config names no image token")
    tokens = image_tokens(config, height, width)
    if tokens >= seq:
        raise Refused(f"--seq {seq}: an image of {width}x{height} takes {tokens} places of the sequence")
    ids[ids == token] = (token + 1) % ids.max()
    ids[:, 1:1 + tokens] = token
    labels = ids.clone()
    labels[:, 1:1 + tokens] = -100
    data = dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    if getattr(vision, "spatial_merge_size", None):
        patch, frames = vision.patch_size, getattr(vision, "temporal_patch_size", 2)
        grid = torch.tensor([[1, height // patch, width // patch]] * batch)
        rows = batch * int(grid[0].prod())
        data["pixel_values"] = torch.randn(rows, channels * frames * patch * patch, generator=generator)
        data["image_grid_thw"] = grid
        data["mm_token_type_ids"] = (ids == token).long()
        return data
    shape = (batch, channels, height, width)
    if config.model_type.startswith(("idefics", "smolvlm")):  # several images a row
        shape = (batch, 1, channels, height, width)
    data["pixel_values"] = torch.randn(shape, generator=generator)
    if config.model_type.startswith(("gemma3", "paligemma")):
        data["token_type_ids"] = (ids == token).long()
    return data


def batch_of(task, config, inputs, batch, seq, generator):
    text = getattr(config, "text_config", config)
    if task == "image-classification":
        height, width = image_size_of(config, inputs)
        channels = getattr(config, "num_channels", 3)
        return dict(pixel_values=torch.randn(batch, channels, height, width, generator=generator),
                    labels=torch.randint(0, config.num_labels, (batch,), generator=generator))
    if task in ("ctc", "audio-classification"):  # --seq is in samples of sound
        data = dict(input_values=torch.randn(batch, seq, generator=generator))
        if task == "ctc":
            data["labels"] = torch.randint(1, config.vocab_size, (batch, inputs.get("target_seq") or 16), generator=generator)
        else:
            data["labels"] = torch.randint(0, config.num_labels, (batch,), generator=generator)
        return data
    if not hasattr(text, "vocab_size"):
        raise Refused(f"--task {task}: {config.model_type} takes no text")
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
    if task == "vision-language":
        return image_batch(config, inputs, ids, generator)
    if task == "contrastive":
        height, width = image_size_of(config, inputs)
        return dict(input_ids=ids, attention_mask=torch.ones_like(ids),
                    pixel_values=torch.randn(batch, 3, height, width, generator=generator), return_loss=True)
    if task == "causal-lm":
        data = dict(input_ids=ids, labels=ids.clone())
        if inputs.get("sequence_parallel"):  # what the model sees of the sequence is a piece
            data["position_ids"] = torch.arange(seq).unsqueeze(0).expand(batch, -1)
        return data
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
        if getattr(config, "is_encoder_decoder", False) and isinstance(config.eos_token_id, int):
            data["input_ids"][:, -1] = config.eos_token_id  # where such heads read a row
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


def train(model, task, config, inputs, optimizer):
    engine = model if isinstance(model, ZeroEngine) else None
    optimizer = engine or optimizer
    precision = inputs["precision"]
    amp = precision.endswith("-amp") and not engine
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
            if engine:
                engine.backward(loss)
                engine.step()
                continue
            if accumulate > 1:
                loss = loss / accumulate
            (scaler.scale(loss) if scaler else loss).backward()
        if inputs["clip_grad"] and not engine:
            if scaler:
                scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        elif not engine:
            optimizer.step()
        if inputs["zero_grad"] == "after":
            optimizer.zero_grad()
        torch.cuda.synchronize()


def check(inputs):
    """What belongs to some way of sharing only."""
    needs = {"zero_init": ("zero3",), "tensor_parallel": ("tp", "fsdp2+tp", "megatron"),
             "sequence_parallel": ("tp", "fsdp2+tp", "megatron"), "pipeline_parallel": ("pp", "megatron"),
             "virtual_pipeline": ("pp", "megatron"), "microbatches": ("pp", "megatron"),
             "context_parallel": ("megatron",), "expert_parallel": ("megatron",),
             "distributed_optimizer": ("megatron",)}
    for name, kinds in needs.items():
        if inputs.get(name) and inputs["parallel"] not in kinds:
            raise Refused(f"--{name.replace('_', '-')} needs --parallel {' or '.join(kinds)}")
    staged = inputs["parallel"] in ("pp", "megatron")
    for name in ("lora", "compile", "fused_loss", "quantize", "offload", "batches"):
        if staged and inputs.get(name) not in (None, 0, False, "", "none"):
            raise Refused(f"--{name.replace('_', '-')} with --parallel {inputs['parallel']} is not described")
    if inputs["parallel"] == "megatron" and inputs["optimizer"] != "adamw":
        raise Refused("--parallel megatron: its optimizer is Adam")


def main(path):
    with open(path) as file:
        spec = json.load(file)
    inputs = spec["inputs"]
    check(inputs)
    torch.manual_seed(0)
    config = config_of(spec)
    torch.backends.cuda.matmul.allow_tf32 = True
    if inputs["parallel"] in ("pp", "megatron"):
        import described_pipeline as staged

        if inputs["parallel"] == "megatron":
            return staged.train_megatron(config, inputs)
        task, cls = task_of(spec, config)
        if task != "causal-lm":
            raise Refused(f"--parallel pp cuts causal-lm models; the task is {task}")
        model = prepared(spec, config, task, build(spec, config, task, cls))
        checkpointed(model, inputs)
        return staged.train_pipeline(model, {**inputs, "vocab": config.vocab_size}, optimizer_of)
    task, cls = task_of(spec, config)
    born = contextlib.nullcontext()
    zero = inputs["parallel"].startswith("zero")
    if zero:
        start_ranks(inputs["world"])
        if inputs.get("zero_init"):
            born = zero_init(inputs, shapes_of(inputs)[0][0])
    with born:
        model = build(spec, config, task, cls)
    model = prepared(spec, config, task, model)
    if not zero:
        model = on_card(model, inputs)
    checkpointed(model, inputs)
    model.train()
    if inputs.get("compile"):
        model = torch.compile(model)
    optimizer = optimizer_of(model, inputs)
    if zero:
        model = ZeroEngine(model, optimizer, inputs, shapes_of(inputs)[0][0])
    train(model, task, config, inputs, optimizer)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError:  # peakcast says it in its own words
        sys.exit(1)
