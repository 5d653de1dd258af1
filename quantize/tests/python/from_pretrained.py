#!/usr/bin/env python3
"""Loads folders that `quantize` wrote with transformers, on the CPU, and holds them against the library's own.

    python -m venv venv && venv/bin/pip install torch transformers accelerate bitsandbytes compressed-tensors sentencepiece
    cargo build --release
    venv/bin/python quantize/tests/python/from_pretrained.py [--quantize target/release/quantize] [--model fixtures/models/tiny-llama]

For each type the folder is written by the program and loaded with from_pretrained. For NF4, FP4 and INT8 the model is
also quantized by transformers itself while it loads; codes have to be equal and logits bit for bit the same. For the
affine types the loaded weights are held against r = s (q - z) and the logits against those of the original model.
Exit code 1 if anything differs.
"""
import argparse, subprocess, sys, tempfile
import torch
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
    ("affine8", ["--per", "row"], None),
    ("affine8", ["--per", "group", "--zero-point"], None),
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


original = logits(AutoModelForCausalLM.from_pretrained(args.model))
failed = False
for kind, options, config in CASES:
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        subprocess.run([args.quantize, args.model, out, "--type", kind, "--quiet", *options], check=True)
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
        print(("ok     " if good else "FAILED ") + line)
        failed |= not good
sys.exit(failed)
