import argparse
import hashlib
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from obverse import weights
from obverse.create import METHODS
from obverse.errors import WeightsError
from obverse.weights import (
    KNOWN,
    SIGNATURES,
    Weights,
    check_sha256,
    family_of,
    fetch,
    known_sha256,
    load_strict,
    read_checkpoint,
    renamer,
    resolve,
    sha256_of,
    source_for,
)

NAMES = ("model.safetensors", "model.ckpt")


def no_network(monkeypatch):
    """Importing the Hub's client would fail the test."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def meta_net():
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Conv2d(3, 1, 1))


def whole_state():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Conv2d(3, 1, 1)).state_dict()


# ------------------------------------------------------------------------------------------------- finding


def test_a_file_and_a_folder_are_found_without_any_network(tmp_path, monkeypatch):
    no_network(monkeypatch)
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"x")
    assert resolve(file, NAMES) == resolve(tmp_path, NAMES) == resolve(str(tmp_path), NAMES) == file
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert resolve(tmp_path, NAMES).name == "model.safetensors"  # the first name is preferred


def test_what_is_neither_a_path_nor_a_hub_id_is_said_without_any_network(tmp_path, monkeypatch):
    no_network(monkeypatch)
    for source in (tmp_path / "none.ckpt", "weights/model.ckpt", "./a/b", "model"):
        with pytest.raises(WeightsError, match="no file or folder here"):
            resolve(source, NAMES)
    with pytest.raises(WeightsError, match=r"holds none of model\.safetensors, model\.ckpt; pass"):
        resolve(tmp_path, NAMES)


class Hub(types.ModuleType):
    """The Hub's client, with a cache that is a folder and a network that counts."""

    def __init__(self, files, folder):
        super().__init__("huggingface_hub")
        self.files, self.folder, self.downloads = files, folder, []
        self.errors = types.ModuleType("huggingface_hub.errors")
        self.errors.HfHubHTTPError = type("HfHubHTTPError", (OSError,), {})
        self.errors.EntryNotFoundError = type("EntryNotFoundError", (self.errors.HfHubHTTPError,), {})
        self.errors.LocalEntryNotFoundError = type(
            "LocalEntryNotFoundError", (self.errors.EntryNotFoundError, FileNotFoundError), {}
        )

    def hf_hub_download(self, repo, name, revision=None, local_files_only=False, local_dir=None):
        path = Path(local_dir or self.folder) / name
        if path.exists():
            return str(path)
        if local_files_only:
            raise self.errors.LocalEntryNotFoundError("not in the cache")
        if name not in self.files:
            raise self.errors.EntryNotFoundError("404")
        self.downloads.append((repo, name, revision))
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(self.files[name])
        return str(path)

    def hf_hub_url(self, repo, name):
        return name

    def get_hf_file_metadata(self, url):
        return types.SimpleNamespace(etag=hashlib.sha256(self.files[url]).hexdigest())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub({"model.ckpt": b"tensors"}, tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", made.errors)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return made


def test_a_hub_id_is_fetched_once_and_then_read_from_the_cache(hub):
    first = resolve("owner/name@v1", NAMES)
    assert first.read_bytes() == b"tensors" and hub.downloads == [("owner/name", "model.ckpt", "v1")]
    assert resolve("owner/name@v1", NAMES) == first and len(hub.downloads) == 1


def test_nothing_is_fetched_offline_or_in_the_middle_of_a_run(hub, monkeypatch):
    source, download = source_for("triposr", None)
    with pytest.raises(WeightsError, match=r"obverse weights fetch triposr \(\d+ MB, MIT\)"):
        resolve(source, NAMES, download=download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="hf download owner/name"):
        resolve("owner/name", NAMES)
    assert hub.downloads == []


def test_a_repository_without_the_file_is_not_called_unreachable(hub):
    with pytest.raises(WeightsError, match=r"has none of other\.bin"):
        resolve("owner/name", ("other.bin",))


def test_an_unreachable_hub_is_said_with_what_else_can_be_done(hub, monkeypatch):
    def down(*_, **__):
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "hf_hub_download", down)
    for attempt in (
        lambda: resolve("owner/name", NAMES),
        lambda: fetch(Weights("a/b", ("model.ckpt",), 1, "MIT", True)),
    ):
        with pytest.raises(
            WeightsError, match=r"could not be fetched .*no connection.*pass a local file with --weights"
        ):
            attempt()


def test_fetching_into_a_folder_leaves_checksums_that_prove_it(hub, tmp_path):
    published = Weights("owner/name", ("model.ckpt",), 1, "MIT", commercial=True)
    (path,) = fetch(published, folder=tmp_path / "here")
    assert (tmp_path / "here" / "SHA256SUMS").read_text() == f"{sha256_of(path)}  model.ckpt\n"
    assert known_sha256(path) == sha256_of(path) == hashlib.sha256(b"tensors").hexdigest()


def test_what_is_in_the_cache_is_fetched_again_without_a_network(hub, monkeypatch):
    published = Weights("owner/name", ("model.ckpt",), 1, "MIT", commercial=True)
    first = fetch(published)
    monkeypatch.setattr(hub, "get_hf_file_metadata", None)
    assert fetch(published) == first and len(hub.downloads) == 1


def test_a_file_that_arrived_damaged_is_refused(hub, tmp_path):
    published = Weights("owner/name", ("model.ckpt",), 1, "MIT", commercial=True, sha256={"model.ckpt": "0" * 64})
    with pytest.raises(WeightsError, match=r"it must be 0000000000000000\.\.\.: it is damaged"):
        fetch(published, folder=tmp_path / "here")
    assert not (tmp_path / "here" / "SHA256SUMS").exists()


# ------------------------------------------------------------------------------------------------- proving


def test_the_checksum_is_looked_up_where_the_hubs_cache_keeps_it(tmp_path):
    digest = hashlib.sha256(b"tensors").hexdigest()
    (tmp_path / digest).write_bytes(b"tensors")
    (tmp_path / "model.ckpt").symlink_to(tmp_path / digest)
    assert known_sha256(tmp_path / "model.ckpt") == digest == check_sha256(tmp_path / "model.ckpt", digest.upper())
    (tmp_path / "plain.ckpt").write_bytes(b"tensors")
    assert known_sha256(tmp_path / "plain.ckpt") is None


# ------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("form", ["safetensors", "ckpt", "lightning", "old"])
def test_every_form_of_file_gives_the_same_tensors(form, tmp_path):
    state = whole_state()
    path = tmp_path / f"model.{'safetensors' if form == 'safetensors' else 'ckpt'}"
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path, metadata={"made": "here"})
    else:
        content = {"state_dict": state, "step": 7} if form == "lightning" else state
        torch.save(content, path, _use_new_zipfile_serialization=form != "old")
    checkpoint = read_checkpoint(path)
    assert checkpoint.tensors.keys() == state.keys()
    assert all(torch.equal(checkpoint.tensors[key], state[key]) for key in state)
    assert checkpoint.rest == {"safetensors": {"made": "here"}, "lightning": {"step": 7}}.get(form, {})
    assert checkpoint.under("0.").keys() == {"weight", "bias"}


def test_a_pickle_that_holds_code_is_refused_by_name(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": argparse.Namespace()}, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=r"holds the Python object argparse\.Namespace, and loading that could run"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("kind", ["cut", "junk", "empty"])
def test_damaged_files_are_said_to_be(suffix, kind, tmp_path):
    path = tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        torch.save({"a": torch.ones(1000)}, path)
    else:
        from safetensors.torch import save_file

        save_file({"a": torch.ones(1000)}, path)
    data = {"cut": path.read_bytes()[:2000], "junk": b"hello " * 100, "empty": b""}[kind]
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"not a whole|not a torch checkpoint"):
        read_checkpoint(path)


def test_files_without_tensors_are_refused(tmp_path):
    torch.save({"step": 3}, tmp_path / "a.ckpt")
    torch.save([1, 2], tmp_path / "b.ckpt")
    with pytest.raises(WeightsError, match="holds no tensors, only step"):
        read_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match="holds a list"):
        read_checkpoint(tmp_path / "b.ckpt")
    with pytest.raises(WeightsError, match="does not exist"):
        read_checkpoint(tmp_path / "c.ckpt")


# ------------------------------------------------------------------------------------------------- loading


def test_a_whole_checkpoint_is_loaded_without_a_copy():
    state = whole_state()
    network = load_strict(meta_net(), state, source="here")
    assert network[0].weight.data_ptr() == state["0.weight"].data_ptr()
    assert not network.training and not network[0].weight.requires_grad


def test_lower_precision_is_for_matrices_only():
    network = load_strict(meta_net(), whole_state(), source="here", dtype=torch.bfloat16)
    assert network[0].weight.dtype == network[2].weight.dtype == torch.bfloat16
    assert network[0].bias.dtype == network[1].weight.dtype == torch.float32
    kept = load_strict(meta_net(), whole_state(), source="here", dtype=torch.bfloat16, keep=("2",))
    assert kept[2].weight.dtype == torch.float32
    halves = {key: value.half() for key, value in whole_state().items()}
    assert load_strict(meta_net(), halves, source="here")[1].weight.dtype == torch.float32


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is resident")
@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_converting_leaves_the_file_out_of_memory_and_readable(form, tmp_path):
    from safetensors.torch import save_file

    big = {"weight": torch.randn(1024, 1024)}
    path = tmp_path / f"model.{form}"
    save_file(big, path) if form == "safetensors" else torch.save(big, path)
    with torch.device("meta"):
        network = nn.Linear(1024, 1024, bias=False)
    checkpoint = read_checkpoint(path)
    load_strict(network, checkpoint.tensors, source=path, dtype=torch.bfloat16)
    assert network.weight.dtype == torch.bfloat16 and resident_kb(path) < 400  # of 4096
    assert torch.equal(checkpoint.tensors["weight"], big["weight"])  # it is read again
    torch.testing.assert_close(network.weight.float(), big["weight"], atol=0.02, rtol=0)


def resident_kb(path):
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return sum(
        int(next(follow for follow in lines[i:] if follow.startswith("Rss:")).split()[1])
        for i, line in enumerate(lines)
        if line.endswith(str(path))
    )


def test_names_may_differ_by_rules():
    names = renamer([(r"^(\d)\.", r"layers.\1."), ("weight$", "w")])
    state = {names(key): value for key, value in whole_state().items()}
    assert "layers.0.w" in state
    load_strict(meta_net(), state, source="here", published=names)


def test_every_difference_is_counted_and_the_first_is_shown():
    state = whole_state()
    state["extra.weight"] = state.pop("0.weight")
    state["1.weight"] = torch.zeros(4)
    with pytest.raises(WeightsError) as caught:
        load_strict(meta_net(), state, source="m.ckpt", family="Toy")
    text = str(caught.value)
    assert text.startswith("m.ckpt cannot be loaded as Toy: 1 of 6 keys missing, first '0.weight' [3, 2]; ")
    assert "1 unexpected, first 'extra.weight' [3, 2]" in text
    assert "1 of another shape, first '1.weight' [4] instead of [3]" in text
    assert "no family known here" in text


@pytest.mark.parametrize("family", SIGNATURES)
def test_every_family_is_known_by_its_own_signature(family):
    keys = [re.sub(r"^\*", "", pattern).replace("*", "0.weight") for pattern in SIGNATURES[family]]
    assert family_of(keys) == family
    assert family_of([*keys[1:], "something.else"]) != family


def test_the_table_and_the_methods_agree():
    others = {name for name in KNOWN if "zero123-" in name or "-zero123" in name}  # of one method, by --weights
    borrowers = {"dreamgaussian"}  # which distils what is listed under another name
    assert {name for name, method in METHODS.items() if method.download_mb} - borrowers == set(KNOWN) - others
    for name, published in KNOWN.items():
        assert weights.is_hub_id(published.repo) and published.files
        if name not in others:
            assert METHODS[name].weights_licence == weights.licences(name)
            assert METHODS[name].download_mb == sum(KNOWN[part].megabytes for part in weights.for_photos(name))


def test_a_method_is_as_free_as_the_strictest_of_its_weights():
    assert KNOWN["lgm"].commercial and not weights.commercial("lgm")
    assert weights.for_photos("lgm") == ["lgm", "zero123-xl"] and weights.for_photos("triposr") == ["triposr"]
    assert weights.licences("lgm") == "MIT; those that make its views: unverified (research only by a card)"
    assert weights.commercial("triposr") and weights.licences("triposr") == "MIT"
