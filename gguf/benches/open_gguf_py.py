"""Times gguf-py's reader on the file that benches/open.rs keeps: pip install gguf; python open_gguf_py.py FILE"""
import sys
import time

from gguf import GGUFReader

times = []
for _ in range(3):
    begun = time.perf_counter()
    reader = GGUFReader(sys.argv[1])
    times.append(time.perf_counter() - begun)
assert len(reader.tensors) == 100_000
print(f"gguf-py open: best {min(times):.2f} s of {len(times)}")
