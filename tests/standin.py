"""A model hub on loopback: `Hub(folder)` serves FOLDER/OWNER/NAME as huggingface.co serves a model repository.

What it answers, headers included, is what huggingface_hub 2.4 asks for. The repositories below are laid out as the real
ones of their names are, with small random weights.
"""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import torch
import transformers as hf
from safetensors.torch import load_file, save_file

COMMIT = hashlib.sha1(b"main").hexdigest()
INVALID = (401, "", "Invalid username or password.")  # what the real one says of names it does not have, logged out


class Hub(ThreadingHTTPServer):
    """
    Args:
        root: of the repositories.

    Attributes:
        moved: old names by which repositories still go.
        refused: (status, error code, message) for the files of a repository; "" as the code: for all of it.
        cut: files of this suffix end half way.
        requested: paths of all requests so far.
    """

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.moved, self.cut = root, {"roberta-base": "FacebookAI/roberta-base"}, ""
        self.refused: dict[str, tuple[int, str, str]] = {}
        self.requested: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.server.requested.append(path)
        api = path.startswith("api/models/")
        name, _, rest = path.removeprefix("api/models/").partition("/")
        if not name.partition("/")[2] and not (self.server.root / name / "config.json").is_file():
            if old := self.server.moved.get(name):
                self.answer(307, {"Location": self.path.replace(f"/{name}", f"/{old}", 1)})
                return
            second, _, rest = rest.partition("/")
            name = f"{name}/{second}"
        folder = self.server.root / name
        status, code, message = self.server.refused.get(name, (0, "", ""))
        if not folder.is_dir() or (status and not code):
            self.refuse(*(INVALID if not status else (status, code, message)))
            return
        verb, _, rest = rest.partition("/")
        revision, _, file = rest.partition("/")
        if verb in ("resolve", "revision", "tree") and revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif verb == "resolve":
            self.refuse(status, code, message) if status else self.file(folder / file)
        elif api and verb == "tree":
            files = [path for path in folder.rglob("*") if path.is_file()]
            self.json([self.entry(path, folder) for path in files])
        elif api and verb in ("", "revision"):
            files = [{"rfilename": str(path.relative_to(folder))} for path in folder.rglob("*") if path.is_file()]
            self.json({"_id": "0", "id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": files})
        else:
            self.refuse(404, "", "Sorry, we can't find the page you are looking for.")

    def entry(self, path: Path, folder: Path) -> dict[str, Any]:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entry = {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": digest[:40]}
        if path.suffix in (".bin", ".safetensors", ".model"):
            entry["lfs"] = {"oid": digest, "size": entry["size"], "pointerSize": 134}
        return entry

    def file(self, path: Path) -> None:
        if not path.is_file():
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        content = path.read_bytes()
        cut = self.server.cut and path.suffix == self.server.cut and self.command == "GET"
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.answer(200, headers, content, len(content) // 2 if cut else len(content))

    def json(self, value: Any) -> None:
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer(status, headers, json.dumps({"error": message}).encode())

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"", sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])
        self.close_connection = sent is not None and sent < len(body)


def pickle_weights(folder: Path, prefix: str = "", **more: torch.Tensor) -> None:
    """Turn a folder's safetensors into pytorch_model.bin, as of old: other names, and buffers among the weights."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**{prefix + name: weight for name, weight in weights.items()}, **more}, folder / "pytorch_model.bin")


def split_weights(folder: Path) -> None:
    """A folder's weights in two files and an index, whichever kind they are."""
    (path,) = [*folder.glob("model.safetensors"), *folder.glob("pytorch_model.bin")]
    pickled = path.suffix == ".bin"
    weights = torch.load(path, weights_only=True) if pickled else load_file(path)
    path.unlink()
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for number, (name, weight) in enumerate(weights.items()):
        parts.setdefault(f"{path.stem}-0000{1 + number % 2}-of-00002{path.suffix}", {})[name] = weight
    for file, part in parts.items():
        torch.save(part, folder / file) if pickled else save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / f"{path.name}.index.json").write_text(json.dumps(index))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def lay(root: Path, models: dict[str, Path]) -> None:
    """Repositories under their real names, from small models by family."""
    for name in ("princeton-nlp/unsup-simcse-roberta-base", "FacebookAI/roberta-base"):
        folder = root / name
        shutil.copytree(models["roberta"], folder)
        vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        (folder / "flax_model.msgpack").write_bytes(b"flax")
        (folder / ".gitattributes").write_text("*.bin filter=lfs\n")
        (folder / "README.md").write_text("# A model\n")
    simcse = root / "princeton-nlp" / "unsup-simcse-roberta-base"
    (simcse / "tokenizer.json").unlink()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "cls_token": "<s>"}
    special |= {"pad_token": "<pad>", "mask_token": "<mask>"}
    (simcse / "special_tokens_map.json").write_text(json.dumps(special))
    (simcse / "tokenizer_config.json").unlink()
    change(simcse / "tokenizer_config.json", **special, add_prefix_space=False, errors="replace", model_max_length=64)
    change(simcse / "config.json", transformers_version="4.2.1", gradient_checkpointing=False)
    pickle_weights(simcse, **{"embeddings.position_ids": torch.arange(66)[None]})
    base = root / "FacebookAI" / "roberta-base"
    (base / "tokenizer_config.json").unlink()
    change(base / "tokenizer_config.json", model_max_length=64)
    model = hf.AutoModelForMaskedLM.from_pretrained(models["roberta"])
    model.save_pretrained(base)  # its pooler is not among the weights, and its architecture is another
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    (base / "tf_model.h5").write_bytes(b"tensorflow")
    (base / "dict.txt").write_text("a 1\n")
