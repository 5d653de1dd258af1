"""Runs the shell steps of action.yml and docs/ci/gitlab-ci.yml as their services would: `steps.py PROGRAMS FOLDER`."""

import json
import os
import pathlib
import re
import subprocess
import sys

import ruamel.yaml

programs, place = map(pathlib.Path, sys.argv[1:])
root = pathlib.Path(__file__).resolve().parent.parent
load = ruamel.yaml.YAML(typ="safe").load
path = f"{programs}{os.pathsep}{os.environ['PATH']}"


def action(inputs):
    """The action's outputs and exit code."""
    recipe = load((root / "action.yml").read_text())
    unknown = set(inputs) - set(recipe["inputs"])
    assert not unknown, unknown
    inputs = {name: inputs.get(name, spec.get("default")) for name, spec in recipe["inputs"].items()}
    outputs = {}

    def expand(text):
        def value(match):
            expression = match[1].strip()
            if expression.startswith("inputs."):
                return inputs[expression.removeprefix("inputs.")]
            if found := re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+)", expression):
                return outputs[found[1]][found[2]]
            return {"runner.os": "Linux", "runner.arch": "X64", "runner.temp": str(place)}[expression]

        return re.sub(r"\$\{\{(.*?)\}\}", value, text)

    for step in recipe["runs"]["steps"]:
        if "run" not in step:
            continue
        # What a person gives reaches the shell in variables alone: no text of theirs is ever run.
        assert "${{" not in step["run"], step["name"]
        if step.get("if") == "inputs.text != ''" and not inputs["text"]:
            continue
        out = place / "output"
        out.write_text("")
        env = {name: expand(value) for name, value in step["env"].items()}
        env |= {"PATH": path, "HOME": str(place), "GITHUB_OUTPUT": str(out), "GITHUB_STEP_SUMMARY": str(place / "summary")}
        run = subprocess.run(["bash", "-c", step["run"]], env=env, cwd=root, capture_output=True, text=True)
        if run.returncode:
            return outputs, run.returncode, run.stdout + run.stderr
        if "id" in step:
            text = out.read_text()
            found = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
            found |= dict(re.findall(r"^(\w+)<<END\n(.*?)\nEND$", text, re.M | re.S))
            outputs[step["id"]] = found
    return {name: expand(spec["value"]) for name, spec in recipe["outputs"].items()}, 0, ""


small = "fixtures/models/tiny-llama"
text = f"{small}/sample.txt"

folder = str(place / "good files")
outputs, code, said = action(
    {"model": small, "types": "q4_k_m q8_0", "output": folder, "text": text, "chunks": "3", "limits": "--max-kld 0.05"}
)
assert code == 0 and outputs["folder"] == folder, said
files = [pathlib.Path(file) for file in outputs["files"].splitlines()]
assert len(files) == 2 and all(file.stat().st_size > 1 << 20 for file in files), files
written = sorted(file.name for file in pathlib.Path(folder).iterdir())
wanted = {"SHA256SUMS", "manifest.intoto.json", "quantize.json", "report.html", "report.txt", "gate.xml", "gate.sarif"}
assert wanted <= set(written), written
subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
assert json.loads((pathlib.Path(folder) / "gate.sarif").read_text())["runs"][0]["results"] == []
assert "Q4_K_M" in (place / "summary").read_text()

folder = str(place / "bad")
_, code, said = action(
    {"model": small, "types": "q2_k", "output": folder, "text": text, "chunks": "3", "limits": "--max-kld 0.0001"}
)
assert code == 1 and "::error" in said, (code, said)
assert "Q2_K" in (place / "summary").read_text()
assert json.loads((pathlib.Path(folder) / "gate.sarif").read_text())["runs"][0]["results"]

# Without limits the report is written and nothing is judged; options reach the program.
folder = str(place / "plain")
outputs, code, said = action(
    {"model": small, "types": "q8_0", "output": folder, "options": "--pure --threads 1", "text": text, "chunks": "2"}
)
assert code == 0 and (pathlib.Path(folder) / "report.html").exists(), said

recipe = load((root / "docs/ci/gitlab-ci.yml").read_text())
variables = recipe["variables"] | {
    "MODEL": str(root / small),
    "TEXT": str(root / text),
    "CHUNKS": "3",
    "LIMITS": "--max-kld 0.05",
}
checkout = place / "gitlab"
checkout.mkdir()
for stage in recipe["stages"]:
    (job,) = (job for job in recipe.values() if isinstance(job, dict) and job.get("stage") == stage)
    script = "\n".join(job["script"])
    subprocess.run(
        ["sh", "-ec", script], env=variables | {"PATH": path}, cwd=checkout, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for kept in job["artifacts"]["paths"] + list(job["artifacts"].get("reports", {}).values()):
        assert (checkout / kept).exists(), kept
print("workflows: schemas hold, the action and the example for GitLab run")
