#!/usr/bin/env python3
"""Loads folders that `quantize` wrote with transformers, on the CPU, and holds them against the library's own.

    python -m venv venv && venv/bin/pip install torch transformers accelerate bitsandbytes compressed-tensors sentencepiece
    cargo build --release
    venv/bin/python quantize/tests/python/from_pretrained.py [--quantize target/release/quantize] [--model fixtures/models/tiny-llama]

For each type the folder is written by the program and loaded with from_pretrained. For NF4, FP4 and INT8 the model is
also quantized by transformers itself while it loads; codes have to be equal and logits bit for bit the same. For the
affine types compressed-tensors has to give every tensor back byte for byte when it decompresses and compresses it (in
f32, where nothing is rounded away), and the logits have to be bit for bit those of the original checkpoint with its
weights replaced by r = s (q - z). All logits are held against those of the original model. A type that the program
refuses because of a model's experts is told and passed over. Exit code 1 if anything differs.
"""
import argparse, json, shutil, subprocess, sys, tempfile
from pathlib import Path
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

parser = argparse.ArgumentParser()
parser.add_argument("--quantize", default="target/release/quantize")
parser.add_argument("--model", default="fixtures/models/tiny-llama")
args = parser.parse_args()
tokens = torch.tensor([[1] + list(range(300, 340))])
bf16 = torch.bfloat16
CASES = [
    ("nf4", [], BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")),
    ("nf4", ["--double-quant"], BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)),
    ("nf4", ["--compute-dtype", "bfloat16", "--quant-storage", "bfloat16"],
     BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=bf16, bnb_4bit_quant_storage=bf16)),
    ("fp4", [], BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4")),
    ("fp4", ["--block-size", "128"], None),
    ("int8", [], BitsAndBytesConfig(load_in_8bit=True)),
    ("affine8", ["--per", "tensor", "--zero-point"], None),
    ("affine8", ["--per", "row"], None),
    ("affine8", ["--per", "group", "--zero-point"], None),
    ("affine4", ["--per", "tensor"], None),
    ("affine4", ["--per", "row", "--zero-point"], None),
    ("affine4", ["--group-size", "64"], None),
    ("affine4", ["--group-size", "64", "--zero-point"], None),
]


def logits(model):
    with torch.no_grad():
        return model(tokens).logits.float()


def same(a, b):
    # By bytes: codes packed into floats may look like NaN, which equals nothing.
    a, b = a.contiguous(), b.contiguous()
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def unpacked(words, bits, dim, size):
    """Numbers of so many bits, packed into words along a dimension, less their smallest value."""
    parts = torch.stack([(words >> shift) & ((1 << bits) - 1) for shift in range(0, 32, bits)], dim + 1)
    return parts.flatten(dim, dim + 1).narrow(dim, 0, size) - (1 << (bits - 1))


def stored_tensors(folder):
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def replaced(weights, folder):
    """Writes the original checkpoint with these weights in place of its own."""
    shutil.copytree(args.model, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    tensors = stored_tensors(args.model)
    tensors |= {name: weight.to(tensors[name].dtype) for name, weight in weights.items()}
    save_file(tensors, Path(folder) / "model.safetensors", {"format": "pt"})
    return folder


def affine(folder):
    """The weights of a folder by r = s (q - z), and the tensors that compressed-tensors would write differently."""
    tensors = stored_tensors(folder)
    config = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate(config).config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(config["format"])
    weights, differing = {}, []
    for name in [n.removesuffix("_scale") for n in tensors if n.endswith(".weight_scale")]:
        suffixes = [s for s in ("", "_packed", "_scale", "_shape", "_zero_point") if name + s in tensors]
        stored = {"weight" + s: tensors[name + s] for s in suffixes}
        stored["weight_scale"] = stored["weight_scale"].float()
        again = compressor.compress(compressor.decompress(stored, scheme), scheme)
        differing += [name + s for s in suffixes if not same(again["weight" + s], stored["weight" + s])]

        scale, zero = stored["weight_scale"], stored.get("weight_zero_point", torch.tensor(0))
        if "weight_packed" in stored:
            rows, cols = stored["weight_shape"].tolist()
            bits = scheme.weights.num_bits
            codes = unpacked(stored["weight_packed"], bits, 1, cols)
            zero = unpacked(zero, bits, 0, rows) if zero.dim() else zero
        else:
            codes, (rows, cols) = stored["weight"].int(), stored["weight"].shape
        if scale.dim() == 2:
            each = cols // scale.shape[1]
            scale = scale.repeat_interleave(each, 1)
            zero = zero.repeat_interleave(each, 1) if zero.dim() else zero
        weights[name] = scale * (codes - zero.int()).float()
    return weights, differing


original = logits(AutoModelForCausalLM.from_pretrained(args.model))
failed = False
for kind, options, config in CASES:
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        run = subprocess.run([args.quantize, args.model, out, "--type", kind, "--quiet", *options], capture_output=True, text=True)
        if run.returncode != 0:
            refused = "experts" in run.stderr
            print(f"{'refused' if refused else 'FAILED '} {kind} {' '.join(options)}: {run.stderr.strip()}")
            failed |= not refused
            continue
        try:
            ours = AutoModelForCausalLM.from_pretrained(out)
            found = logits(ours)
        except Exception as error:
            print(f"FAILED {kind} {' '.join(options)}: {error!r}")
            failed = True
            continue
        distance = ((found - original).norm() / original.norm()).item()
        line = f"{kind} {' '.join(options)}: loaded; logits {100 * distance:.2f} % from the original's"
        good = torch.isfinite(found).all().item() and distance < (0.6 if "4" in kind else 0.2)
        if config is not None:
            theirs = AutoModelForCausalLM.from_pretrained(args.model, quantization_config=config)
            mine, other = ours.state_dict(), theirs.state_dict()
            differing = [k for k in other if k not in mine or not same(mine[k], other[k])]
            gap = (found - logits(theirs)).abs().max().item()
            line += f"; {len(other) - len(differing)} of {len(other)} tensors and logits within {gap:g} of the library's"
            good = good and not differing and gap == 0
        if kind.startswith("affine"):
            weights, differing = affine(out)
            plain = AutoModelForCausalLM.from_pretrained(replaced(weights, f"{folder}/plain"))
            gap = (found - logits(plain)).abs().max().item()
            line += f"; {len(weights)} weights, {len(differing)} tensors unlike compressed-tensors' own, logits within {gap:g} of r = s (q - z)"
            good = good and weights and not differing and gap == 0
        print(("ok     " if good else "FAILED ") + line)
        failed |= not good
sys.exit(failed)
