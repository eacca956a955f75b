#!/usr/bin/env python3
"""Small configs of families that only transformers itself makes, and every way of sharing, as described runs.

    described_families.py PEAKCAST [--python PYTHON] [--jobs N] [--real] [NAME...]

Runs each by the captured engine and prints a line: the peaks in MiB, or the last words of what failed. With
--real, on a machine with a card, what one card runs is trained there as well (described_run.py itself) and the
peaks are set beside each other. Exits 1 when any has no answer.
"""
import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = f"{HERE}/../../workloads/capture/described_run.py"

INPUTS = dict(model="config.json", task=None, set=[], batch=2, seq=64, batches=None, target_seq=None, iterations=2,
              precision="fp32", attention="sdpa", optimizer="adamw", zero_grad="before", accumulate=1, clip_grad=False,
              checkpoint="none", lora=0, lora_targets="all-linear", lora_dropout=0.0, quantize="none",
              double_quant="on", freeze="", fused_loss="none", parallel="none", world=1, rank=0, shard="full",
              reshard_after_forward="on", shard_precision="same", reduce_precision="same", backward_prefetch="pre",
              forward_prefetch="off", limit_all_gathers="on", bucket_view="off", bucket_mb=25, images="", offload="",
              compile=False)


def decoder(model_type, head, **fields):
    return dict(model_type=model_type, architectures=[head], vocab_size=512, hidden_size=64, num_hidden_layers=2,
                num_attention_heads=4, intermediate_size=128, max_position_embeddings=512, **fields)


TEXT = dict(vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=128, max_position_embeddings=512)
VISION = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32,
              patch_size=8, num_channels=3)
SEQ2SEQ = dict(vocab_size=512, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
               decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128)
SOUND = dict(vocab_size=32, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
MROPE = dict(TEXT, rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3]))
QWEN_IMAGES = dict(image_token_id=500, video_token_id=501, vision_start_token_id=502)
LLAMA = dict(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=1024, hidden_size=256,
             num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4, intermediate_size=512,
             max_position_embeddings=2048)
QWEN3 = {**LLAMA, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32,
         "tie_word_embeddings": True}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4}
BERT = dict(decoder("bert", "BertForMaskedLM"), hidden_size=128)
DEBERTA = decoder("deberta-v2", "DebertaV2ForMaskedLM", relative_attention=True, position_buckets=32,
                  pos_att_type=["p2c", "c2p"], type_vocab_size=0)
BART = dict(SEQ2SEQ, model_type="bart", architectures=["BartForConditionalGeneration"], max_position_embeddings=512)
WHISPER = dict(SEQ2SEQ, model_type="whisper", architectures=["WhisperForConditionalGeneration"], num_mel_bins=80,
               max_source_positions=1500, max_target_positions=448, pad_token_id=0, bos_token_id=1, eos_token_id=2,
               decoder_start_token_id=3)
MEGATRON = dict(parallel="megatron", precision="bf16")


def heads():
    """Decoders and encoders, by what differs from `decoder`."""
    yield "mamba", decoder("mamba", "MambaForCausalLM", state_size=8), {}
    yield "mamba2", decoder("mamba2", "Mamba2ForCausalLM", num_heads=8, head_dim=16, state_size=16, n_groups=2), {}
    yield "falcon", decoder("falcon", "FalconForCausalLM"), {}
    yield "falcon-tokens", decoder("falcon", "FalconForTokenClassification"), {}
    yield "gpt-neox", decoder("gpt_neox", "GPTNeoXForCausalLM"), {}
    yield "bloom", decoder("bloom", "BloomForCausalLM"), {}
    yield "opt", decoder("opt", "OPTForCausalLM", word_embed_proj_dim=64, ffn_dim=128), {}
    yield "starcoder2", decoder("starcoder2", "Starcoder2ForCausalLM", num_key_value_heads=2), {}
    yield "cohere", decoder("cohere", "CohereForCausalLM"), {}
    yield "cohere2", decoder("cohere2", "Cohere2ForCausalLM"), {}
    yield "gpt-neo", decoder("gpt_neo", "GPTNeoForCausalLM", num_layers=2, num_heads=4,
                             attention_types=[[["global", "local"], 1]]), {}
    yield "gptj", decoder("gptj", "GPTJForCausalLM", n_embd=64, n_layer=2, n_head=4, rotary_dim=8), {}
    yield "gpt-bigcode", decoder("gpt_bigcode", "GPTBigCodeForCausalLM", n_embd=64, n_layer=2, n_head=4), {}
    yield "phi", decoder("phi", "PhiForCausalLM"), {}
    yield "stablelm", decoder("stablelm", "StableLmForCausalLM", num_key_value_heads=4), {}
    yield "nemotron", decoder("nemotron", "NemotronForCausalLM", num_key_value_heads=4), {}
    yield "glm4", decoder("glm4", "Glm4ForCausalLM", num_key_value_heads=2, head_dim=16, pad_token_id=0), {}
    yield "olmoe", decoder("olmoe", "OlmoeForCausalLM", num_experts=4, num_experts_per_tok=2), {}
    yield "qwen2-moe", decoder("qwen2_moe", "Qwen2MoeForCausalLM", num_experts=4, num_experts_per_tok=2,
                               num_key_value_heads=2), {}
    yield "falcon-h1", decoder("falcon_h1", "FalconH1ForCausalLM", num_key_value_heads=2), {}
    yield "xlm-roberta", decoder("xlm-roberta", "XLMRobertaForMaskedLM"), {}
    yield "albert", decoder("albert", "AlbertForMaskedLM", embedding_size=32), {}
    yield "mpnet", decoder("mpnet", "MPNetForMaskedLM"), {}
    yield "longformer", decoder("longformer", "LongformerForMaskedLM", attention_window=32), {}
    yield "big-bird", decoder("big_bird", "BigBirdForMaskedLM"), {}
    yield "fnet", decoder("fnet", "FNetForMaskedLM"), {}
    yield "deberta", decoder("deberta", "DebertaForMaskedLM"), {}
    yield "camembert", decoder("camembert", "CamembertForMaskedLM"), {}
    yield "llama-classes", decoder("llama", "LlamaForSequenceClassification", num_key_value_heads=2, pad_token_id=0), {}
    yield "xlnet", dict(model_type="xlnet", architectures=["XLNetLMHeadModel"], vocab_size=512, d_model=64, n_layer=2,
                        n_head=4, d_inner=128), {}
    for name, task in (("mlm", None), ("classes", "classification"), ("tokens", "token-classification"),
                       ("answers", "question-answering")):
        yield f"deberta-v2-{name}", DEBERTA, dict(task=task)


def seq2seq():
    yield "whisper", WHISPER, {}
    yield "bart", BART, {}
    yield "bart-classes", BART, dict(task="classification")
    yield "mbart", {**BART, "model_type": "mbart", "architectures": ["MBartForConditionalGeneration"]}, {}
    yield "pegasus", {**BART, "model_type": "pegasus", "architectures": ["PegasusForConditionalGeneration"]}, {}
    yield "t5gemma", dict(model_type="t5gemma", architectures=["T5GemmaForConditionalGeneration"], vocab_size=512,
                          encoder=dict(TEXT, head_dim=16), decoder=dict(TEXT, head_dim=16)), {}


def images_and_sound():
    for kind, head in (("vit", "ViT"), ("deit", "DeiT"), ("dinov2", "Dinov2"), ("beit", "Beit")):
        yield kind, dict(VISION, model_type=kind, architectures=[f"{head}ForImageClassification"]), {}
    yield "convnext", dict(model_type="convnext", architectures=["ConvNextForImageClassification"], depths=[1, 1, 2, 1],
                           hidden_sizes=[16, 32, 64, 128], image_size=64), {}
    yield "resnet", dict(model_type="resnet", architectures=["ResNetForImageClassification"], depths=[1, 1, 1, 1],
                         hidden_sizes=[16, 32, 64, 128], embedding_size=16), dict(images="64x64")
    yield "swin", dict(model_type="swin", architectures=["SwinForImageClassification"], embed_dim=32,
                       depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], image_size=64, window_size=4, patch_size=2), {}
    for kind, head in (("wav2vec2", "Wav2Vec2ForCTC"), ("hubert", "HubertForCTC")):
        yield kind, dict(SOUND, model_type=kind, architectures=[head]), dict(seq=16000)
    yield "wav2vec2-classes", dict(SOUND, model_type="wav2vec2"), dict(seq=16000, task="audio-classification")
    yield "clip", dict(model_type="clip", architectures=["CLIPModel"], projection_dim=64,
                       text_config=dict(TEXT, max_position_embeddings=77), vision_config=VISION), {}
    yield "siglip", dict(model_type="siglip", architectures=["SiglipModel"],
                         text_config=dict(TEXT, max_position_embeddings=64), vision_config=VISION), {}


def vision_language():
    clip, siglip = dict(VISION, model_type="clip_vision_model"), dict(VISION, model_type="siglip_vision_model")
    llama = dict(TEXT, model_type="llama")
    yield "llava", dict(model_type="llava", architectures=["LlavaForConditionalGeneration"], image_token_index=511,
                        text_config=llama, vision_config=clip), dict(images="32x32")
    qwen = dict(depth=2, num_heads=4, hidden_size=64, patch_size=14, spatial_merge_size=2, temporal_patch_size=2,
                in_channels=3)
    yield "qwen2-vl", dict(QWEN_IMAGES, model_type="qwen2_vl", architectures=["Qwen2VLForConditionalGeneration"],
                           text_config=MROPE, vision_config=dict(qwen, embed_dim=64)), dict(images="112x112")
    yield "qwen2.5-vl", dict(QWEN_IMAGES, model_type="qwen2_5_vl", text_config=MROPE,
                             architectures=["Qwen2_5_VLForConditionalGeneration"],
                             vision_config=dict(qwen, intermediate_size=128, out_hidden_size=64)), dict(images="112x112")
    yield "blip-2", dict(model_type="blip-2", architectures=["Blip2ForConditionalGeneration"], image_token_index=511,
                         num_query_tokens=8, vision_config=VISION,
                         text_config=dict(TEXT, model_type="opt", word_embed_proj_dim=64, ffn_dim=128),
                         qformer_config=dict(TEXT, encoder_hidden_size=64)), {}
    yield "paligemma", dict(model_type="paligemma", architectures=["PaliGemmaForConditionalGeneration"],
                            image_token_index=511, projection_dim=64, vision_config=siglip,
                            text_config=dict(TEXT, model_type="gemma", head_dim=16)), {}
    yield "gemma3-vl", dict(model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"],
                            image_token_index=511, mm_tokens_per_image=4, vision_config=siglip,
                            text_config=dict(TEXT, head_dim=16, num_hidden_layers=6)), {}
    yield "idefics3", dict(model_type="idefics3", architectures=["Idefics3ForConditionalGeneration"], scale_factor=2,
                           image_token_id=511, text_config=llama, vision_config=VISION), {}


def flags():
    """What is captured of the flags, on one card and on several."""
    one = dict(every=dict(checkpoint="every-2"), selective=dict(checkpoint="selective"), muon=dict(optimizer="muon"),
               lion=dict(optimizer="lion"), lion8=dict(optimizer="lion8bit"), paged=dict(optimizer="paged-adamw8bit"),
               int8=dict(quantize="int8", lora=8, precision="bf16"), liger=dict(fused_loss="liger", precision="bf16"),
               nf4=dict(quantize="nf4", lora=8, precision="bf16"), compile=dict(compile=True),
               offload_optimizer=dict(offload="optimizer"), offload_activations=dict(offload="activations"))
    many = dict(
        offload_fsdp2=dict(parallel="fsdp2", world=2, offload="params"),
        offload_fsdp1=dict(parallel="fsdp1", world=2, offload="params"),
        zero2=dict(parallel="zero2", world=2, precision="bf16"), zero3=dict(parallel="zero3", world=2, precision="bf16"),
        zero3_init=dict(parallel="zero3", world=16, precision="bf16", zero_init=True),
        zero2_offload=dict(parallel="zero2", world=2, precision="bf16", offload="optimizer"),
        tp=dict(parallel="tp", world=2), tp_clip=dict(parallel="tp", world=4, clip_grad=True, precision="bf16"),
        tp_sequence=dict(parallel="tp", world=2, sequence_parallel=True),
        fsdp2_tp=dict(parallel="fsdp2+tp", world=4, tensor_parallel=2),
        fsdp2_tp_sequence=dict(parallel="fsdp2+tp", world=8, tensor_parallel=2, sequence_parallel=True,
                               precision="bf16", checkpoint="full"),
        pp_first=dict(parallel="pp", world=2), pp_last=dict(parallel="pp", world=2, rank=1),
        pp_middle=dict(parallel="pp", world=4, rank=1, microbatches=8, precision="bf16"),
        pp_virtual=dict(parallel="pp", world=2, rank=1, virtual_pipeline=2, microbatches=4),
        pp_data=dict(parallel="pp", world=4, pipeline_parallel=2), pp_full=dict(parallel="pp", world=2, checkpoint="full"),
        megatron_tp=dict(MEGATRON, world=2, tensor_parallel=2),
        megatron_sequence=dict(MEGATRON, world=2, tensor_parallel=2, sequence_parallel=True),
        megatron_pp=dict(MEGATRON, world=2, pipeline_parallel=2, microbatches=4, rank=1),
        megatron_virtual=dict(MEGATRON, world=2, pipeline_parallel=2, virtual_pipeline=2, microbatches=4),
        megatron_distributed=dict(MEGATRON, world=4, distributed_optimizer=True),
        megatron_full=dict(MEGATRON, world=2, tensor_parallel=2, recompute="full"),
        megatron_selective=dict(MEGATRON, world=2, tensor_parallel=2, recompute="selective"),
        megatron_all=dict(MEGATRON, world=8, tensor_parallel=2, pipeline_parallel=2, sequence_parallel=True,
                          distributed_optimizer=True, microbatches=4))
    for name, changes in {**one, **many}.items():
        yield name, LLAMA, changes
    yield "tp-qwen3", QWEN3, dict(parallel="tp", world=2, sequence_parallel=True)
    yield "pp-qwen3", QWEN3, dict(parallel="pp", world=2, rank=1)
    yield "megatron-experts", MIXTRAL, dict(MEGATRON, world=4, expert_parallel=2)
    yield "compile-bert", BERT, dict(compile=True)


def last_words(text):
    return " | ".join(line[-200:] for line in text.strip().splitlines()[-3:])


def captured(options, path, inputs):
    """Peaks in bytes, or why there are none."""
    ranks = ["--world", inputs["world"], "--rank", inputs["rank"]] if inputs["world"] > 1 else []
    command = [options.peakcast, "capture", "--format", "json", "--gpu", options.gpu, *ranks, "--", options.python, PROGRAM, path]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=options.timeout)
    if done.returncode:
        return None, f"status {done.returncode}: {last_words(done.stderr)}"
    report = json.loads(done.stdout)
    notes = [f"stub {stub}" for stub in report["stubs"]]
    notes += [f"{a['question']} at {a['site'][-60:]} taken as {a['answer']}" for a in report["assumed"]]
    return (report["peak"]["allocated_bytes"], report["peak"]["reserved_bytes"]), "; ".join(notes[:3])


REAL = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import described_run
described_run.main(sys.argv[2])
peaks = torch.cuda.memory_stats()
print(peaks["allocated_bytes.all.peak"], peaks["reserved_bytes.all.peak"])
"""


def trained(options, path):
    done = subprocess.run([options.python, "-c", REAL, os.path.dirname(PROGRAM), path], capture_output=True, text=True,
                          timeout=options.timeout)
    if done.returncode:
        return None, f"status {done.returncode}: {last_words(done.stderr)}"
    return tuple(int(word) for word in done.stdout.split()[-2:]), ""


def text_of(peaks, words):
    figures = "no answer" if peaks is None else f"{peaks[0] / 2**20:.2f} of {peaks[1] / 2**20:.0f} MiB"
    return f"{figures} {words}".strip()


def run(options, scratch, name, config, changes):
    inputs = {**INPUTS, **changes}
    path = f"{scratch}/{name}.json"
    with open(path, "w") as file:
        json.dump({"config": config, "inputs": inputs}, file)
    begin = time.time()
    try:
        peaks, words = captured(options, path, inputs)
        line = f"{name}: {text_of(peaks, words)}"
        if options.real and inputs["world"] == 1:
            real, words = trained(options, path)
            same = "equal" if real == peaks else "DIFFERS" if real and peaks else ""
            line += f" || on the card {text_of(real, words)} {same}"
    except subprocess.TimeoutExpired:
        peaks, line = None, f"{name}: no answer within {options.timeout} s"
    print(f"{line} [{time.time() - begin:.0f} s]", flush=True)
    return peaks is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peakcast")
    parser.add_argument("--python", default=os.environ.get("PEAKCAST_TORCH_PYTHON", sys.executable))
    parser.add_argument("--gpu", default="h200-141g")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    runs = [*heads(), *seq2seq(), *images_and_sound(), *vision_language(), *flags()]
    chosen = [r for r in runs if not options.names or any(r[0].startswith(n) for n in options.names)]
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        answered = list(pool.map(lambda r: run(options, scratch, *r), chosen))
    print(f"{sum(answered)} of {len(answered)} have an answer")
    return 0 if all(answered) else 1


if __name__ == "__main__":
    sys.exit(main())
