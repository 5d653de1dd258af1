"""Time and memory of `evaluate compare` as functions of the model's size, the text's length and the number of types.

    eval/benches/scale.py PROGRAM FOLDER [LARGE...]
    eval/benches/scale.py --draw

PROGRAM is `evaluate`, or `downcast evaluate` in quotes. FOLDER holds random checkpoints (`random-checkpoint --layers N`) of
2, 4, 8 and 22 layers as `layers-N`; LARGE are other checkpoints, run once each with eight types as deployed. Writes
`scale.csv` and `scale.svg` beside itself: points are measured, lines are the model's law; `--draw` draws the table again.
Needs Python alone.
"""

import csv
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TEXT = os.path.join(HERE, "../../fixtures/models/tiny-llama/calibration.txt")
TYPES = ["Q8_0", "Q4_0", "Q5_0", "Q4_1", "Q5_1", "Q6_K", "Q3_K", "Q2_K"]
CONTEXT = 512
MEMORY = 1 << 30


def measure(program, folder, chunks, types, arithmetic):
    """CPU seconds and peak bytes."""
    command = [*program, "compare", folder, "--types", ",".join(types), "--text", TEXT, "--ctx", str(CONTEXT)]
    command += ["--chunks", str(chunks), "--arithmetic", arithmetic, "--quiet", "--threads", "2", "--csv"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def sizes(folder):
    """What the law asks of a model: weights of a layer, layers, weights of the head, width, vocabulary, widest parts."""
    config = json.load(open(os.path.join(folder, "config.json")))
    width, feed, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    keys = config["num_key_value_heads"] * head
    queries = config["num_attention_heads"] * head
    layer = 2 * width * queries + 2 * width * keys + 3 * width * feed
    return dict(layer=layer, layers=layers, head=config["vocab_size"] * width, width=width, vocabulary=config["vocab_size"],
                attention=2 * queries + 2 * keys, feed=feed)


def work(model, chunks):
    """Weights times tokens: the head meets half of the positions."""
    return (model["layer"] * model["layers"] + model["head"] / 2) * chunks * CONTEXT


def memory(model, chunks, types):
    """What is in memory at most, but for the program: see `Schedule` for how a pass is laid out."""
    streams, width = types + 1, model["width"]
    head = model["head"] * 4 * streams
    logits = max(16, min(512, MEMORY // 8 // (model["vocabulary"] * 4 * streams))) * model["vocabulary"] * 4 * streams
    states = min(MEMORY, chunks * CONTEXT * width * 4 * streams)
    token = 4 * (4 * width + 2 * model["attention"] + 4 * model["feed"])
    group = token * min(chunks * CONTEXT, max(CONTEXT, min(4096, MEMORY // 4 // token)))
    # A layer in BF16 and one matrix of it encoded; the head in BF16, decoded where that is little.
    layer = 2 * model["layer"] + 1.1 * model["width"] * model["feed"]
    output = 2 * model["head"] + (head if head <= MEMORY // 4 else 1.1 * model["head"] * types) + logits
    return states + max(layer + group, output)


def solve(rows, wanted):
    """Least squares of the relative errors, by the normal equations."""
    rows = [[value / w for value in row] for row, w in zip(rows, wanted)]
    n = len(rows[0])
    a = [[sum(r[i] * r[j] for r in rows) for j in range(n)] + [sum(r[i] for r in rows)] for i in range(n)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(a[k][i]))
        a[i], a[pivot] = a[pivot], a[i]
        for k in range(n):
            if k != i:
                factor = a[k][i] / a[i][i]
                a[k] = [x - factor * y for x, y in zip(a[k], a[i])]
    return [a[i][n] / a[i][i] for i in range(n)]


def features(point):
    """What the law of time multiplies with its constants: the base's products, the types', encoding, one run."""
    weights = point["model"]["layer"] * point["model"]["layers"] + point["model"]["head"]
    types = point["types"]
    exact, deployed = (types, 0) if point["arithmetic"] == "exact" else (0, types)
    done = work(point["model"], point["chunks"])
    return [done * (1 + exact), done * deployed, weights * types, 1.0]


def panel(points, of, axis, unit, x, y):
    """One plot: a value against what varies, a line and marks for each arithmetic."""
    width, height, left, bottom = 250, 190, 46, 34
    law = "law_" + axis
    most_x, most_y = max(p[of] for p in points), max(max(p[axis], p[law]) for p in points) * 1.08
    px = lambda v: x + left + (width - left - 12) * v / (most_x * 1.05)
    py = lambda v: y + height - bottom - (height - bottom - 22) * v / most_y
    out = [f'<path d="M{px(0):.1f} {y + 14}V{py(0):.1f}H{x + width - 8}" fill="none" stroke="#888"/>']
    step = 10 ** len(str(int(most_y / 4))) / 10 if most_y >= 4 else 0.5
    while most_y / step > 5:
        step *= 2
    for tick in range(1, int(most_y / step) + 1):
        v = tick * step
        out.append(f'<text x="{px(0) - 4:.1f}" y="{py(v) + 4:.1f}" text-anchor="end">{v:g}</text>')
    last = -100
    for value in sorted({p[of] for p in points}):
        label = f"{value:.2f}".rstrip("0").rstrip(".")
        if px(value) - last > 24:
            last = px(value)
            out.append(f'<text x="{last:.1f}" y="{y + height - bottom + 14}" text-anchor="middle">{label}</text>')
    names = dict(size="weights, billions", chunks="chunks of 512 tokens", types="types")
    out.append(f'<text x="{x + left}" y="{y + 10}">{unit}</text>')
    out.append(f'<text x="{x + (width + left) / 2}" y="{y + height - 4}" text-anchor="middle">{names[of]}</text>')
    for arithmetic, colour in (("exact", "#0072b2"), ("deployed", "#d55e00")):
        some = sorted((p for p in points if p["arithmetic"] == arithmetic), key=lambda p: p[of])
        if not some:
            continue
        line = " ".join(f"{px(p[of]):.1f},{py(p[law]):.1f}" for p in some)
        dash = "" if arithmetic == "exact" else ' stroke-dasharray="4 3"'
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}"{dash}/>')
        for p in some:
            if arithmetic == "exact":
                out.append(f'<circle cx="{px(p[of]):.1f}" cy="{py(p[axis]):.1f}" r="3" fill="{colour}"/>')
            else:
                out.append(f'<rect x="{px(p[of]) - 3:.1f}" y="{py(p[axis]) - 3:.1f}" width="6" height="6" fill="{colour}"/>')
    return out


def draw(points):
    """The plots of what was measured."""
    svg = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 790 430" font-family="sans-serif" font-size="10" fill="#333">',
           '<rect width="790" height="430" fill="#fff"/>']
    for column, series in enumerate(("size", "chunks", "types")):
        some = [p for p in points if p["series"] == series]
        svg += panel(some, series, "seconds", "CPU seconds", 8 + 260 * column, 8)
        svg += panel(some, series, "peak", "peak, MiB", 8 + 260 * column, 208)
    told = "Marks are measured, lines the law: circles and full lines exact, squares and dashed lines as deployed."
    svg.append(f'<text x="16" y="424">{told}</text></svg>')
    with open(os.path.join(HERE, "scale.svg"), "w") as file:
        file.write("\n".join(svg) + "\n")


COLUMNS = ["series", "size", "chunks", "types", "arithmetic", "seconds", "law_seconds", "peak", "law_peak"]
HEADS = "series,billion_weights,chunks,types,arithmetic,cpu_seconds,law_seconds,peak_mib,law_mib"


def read():
    """The points of the table."""
    with open(os.path.join(HERE, "scale.csv"), newline="") as file:
        rows = list(csv.reader(file))[1:]
    number = lambda name, text: text if name in ("series", "arithmetic") else float(text)
    return [{name: number(name, text) for name, text in zip(COLUMNS, row)} for row in rows]


def main():
    if sys.argv[1:] == ["--draw"]:
        return draw(read())
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    program, folder, large = sys.argv[1].split(), sys.argv[2], sys.argv[3:]
    points = []

    def run(series, checkpoint, chunks, types, arithmetic):
        model = sizes(checkpoint)
        seconds, peak = measure(program, checkpoint, chunks, TYPES[:types], arithmetic)
        size = (model["layer"] * model["layers"] + 2 * model["head"]) / 1e9
        points.append(dict(series=series, model=model, size=size, chunks=chunks, types=types, arithmetic=arithmetic,
                           seconds=seconds, peak=peak / 2**20))
        print(f"{series:7} {size:5.2f} B, {chunks:2} chunks, {types} types, {arithmetic:8} {seconds:7.1f} CPU s, {peak / 2**20:6.0f} MiB",
              flush=True)

    at = lambda layers: os.path.join(folder, f"layers-{layers}")
    for arithmetic in ("exact", "deployed"):
        for layers in (2, 4, 8, 22):
            run("size", at(layers), 2, 2, arithmetic)
        for chunks in (1, 4, 8, 16):
            run("chunks", at(2), chunks, 2, arithmetic)
        for types in (1, 2, 4, 8):
            run("types", at(2), 4, types, arithmetic)
    for checkpoint in large:
        run("large", checkpoint, 1, 8, "deployed")

    small = [p for p in points if p["series"] != "large"]
    constants = solve([features(p) for p in small], [p["seconds"] for p in small])
    time_law = lambda p: sum(c * f for c, f in zip(constants, features(p)))
    program_bytes = min(p["peak"] - memory(p["model"], p["chunks"], p["types"]) / 2**20 for p in small)
    memory_law = lambda p: memory(p["model"], p["chunks"], p["types"]) / 2**20 + max(program_bytes, 0)
    print(f"\nCPU seconds = {constants[0] * 1e12:.1f} a billion weights and thousand tokens, exact; {constants[1] * 1e12:.1f} of a type as "
          f"deployed; {constants[2] * 1e9:.1f} to encode a billion weights; {constants[3]:.1f} a run")
    for axis, law in (("seconds", time_law), ("peak", memory_law)):
        for p in points:
            p["law_" + axis] = law(p)
        off = max(points, key=lambda p: abs(p["law_" + axis] / p[axis] - 1))
        print(f"{axis}: farthest from the law {100 * (off[axis] / off['law_' + axis] - 1):+.0f} % "
              f"({off['size']:.2f} B, {off['chunks']} chunks, {off['types']} types, {off['arithmetic']})")
    with open(os.path.join(HERE, "scale.csv"), "w", newline="") as file:
        file.write(HEADS + "\n")
        form = dict(size=".2f", seconds=".1f", law_seconds=".1f", peak=".0f", law_peak=".0f")
        for p in points:
            file.write(",".join(format(p[name], form.get(name, "")) for name in COLUMNS) + "\n")
    draw(points)


main()
