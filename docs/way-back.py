#!/usr/bin/env python3
"""Compares what transformers computes from checkpoints and from the folders that came back of their files.

    pip install torch transformers safetensors sentencepiece tiktoken
    python docs/way-back.py --convert target/release/convert CHECKPOINT...

Each CHECKPOINT goes to a GGUF file of its own type and back. Both folders are loaded as the class that config.json names, in f32, and
given the same tokens; the largest difference is printed. Tokenizers are compared on a text of several scripts. Exit code 1:
something differs. Classes that are not installed, and those without a way back, are named.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

TEXT = "The quick brown fox, it's 2026! Straße, naïve café; Привет мир; 你好,世界; こんにちは; مرحبا بالعالم; 🦊 x = 3.14\n\n\tend  "


def back(convert, folder, work, pre):
    """The folder that came back, or what was said in its place."""
    file, out = work / "model.gguf", work / folder.name
    config = json.loads((folder / "config.json").read_text())
    name = config["architectures"][0]
    told = ["--pre", pre] if pre else []
    # Through the type of the checkpoint, so that nothing is rounded.
    types = {"float16": "f16", "float32": "f32"}
    outtype = types.get(config.get("dtype") or config.get("torch_dtype"), "bf16")
    for step in (
        [convert, folder, "-o", file, "--outtype", outtype, *told],
        [convert, file, "-o", out, "--class", name],
    ):
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            return name, None, done.stderr.strip().splitlines()[0]
    return name, out, ""


def outputs(name, folder):
    """Every tensor of floats that the model gives for a row of tokens."""
    torch.manual_seed(0)
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    vocabulary = model.config.get_text_config().vocab_size
    tokens = torch.randint(4, vocabulary - 4, (1, 24), generator=torch.Generator().manual_seed(7))
    given = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = tokens[:, :12]
    with torch.no_grad():
        made = model(**given)
    first = made.logits if getattr(made, "logits", None) is not None else made.last_hidden_state
    return first.float()


def tokens(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--convert", default="convert", help="the program")
    parser.add_argument("--pre", help="the name of the pre-tokenizer, where no vocabulary has a published hash")
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="CHECKPOINT")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    counts = {"equal": 0, "differs": 0, "no class": 0, "no way": 0}
    for folder in args.folders:
        with tempfile.TemporaryDirectory() as work:
            name, made, fault = back(args.convert, folder.resolve(), pathlib.Path(work), args.pre)
            if made is None:
                verdict, shown = "no way", fault
            elif not hasattr(transformers, name):
                verdict, shown = "no class", f"transformers has no {name}"
            else:
                try:
                    of = outputs(name, folder)
                except Exception as error:  # the original's fault, not that of the way back
                    verdict, shown = "no class", f"the original does not load: {str(error).splitlines()[0][:100]}"
                else:
                    try:
                        difference = (of - outputs(name, made)).abs().max().item()
                    except Exception as error:
                        difference = str(error).splitlines()[0][:100]
                    verdict, shown = ("equal" if difference == 0 else "differs"), f"logits differ by {difference}"
                    try:
                        own = tokens(folder)
                    except Exception:
                        own = None
                    if own is not None:
                        try:
                            same = own == tokens(made)
                        except Exception as error:
                            same = str(error).splitlines()[0][:100]
                        if same is not True:
                            shown += f"; other tokens ({same})"
                            verdict = "differs"
        counts[verdict] += 1
        print(f"{folder.name}: {verdict}: {name}: {shown}", flush=True)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
