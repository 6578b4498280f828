#!/usr/bin/env python3
"""Makes the small checkpoints golden_nested, golden_moe_stacked and golden_moe_split with expected results.

    pip install -r requirements.txt
    make_golden.py make [NAME...]     writes NAME/ (default: all three) beside this file, about 20 s on two cores
    make_golden.py check FOLDER...    recomputes FOLDER/expected.json and prints how far the stored results are away

The weights are random, from fixed seeds. The expectation is computed by `Reference` below: it reads the files that
were written, converts them to float64 and runs the delta rule token by token, so it shares no code with
transformers. It is then compared with transformers' own float32 forward (`f32_rel`, and equal tokens) and its
bfloat16 forward (`bf16_rel`, relative L2 of the last logits: what rounding alone costs this checkpoint and prompt).
The models are always loaded from the files: a model cast to bfloat16 and back in memory keeps rounded rotary
frequencies. transformers loads all three as they are; the old-style configuration of golden_moe_split too.

Prompts are drawn from a seed. One is rejected, and the next drawn, if float32 could not decide its tokens: the two
best logits closer than MIN_GREEDY_GAP at a greedy step or MIN_ARGMAX_GAP at a prompt position, or, with experts, the
last chosen and first unchosen router logit closer than MIN_ROUTE_GAP anywhere. Where bfloat16 rounding alone changes an
expert near the end, the distance of a bfloat16 engine says nothing: so the last prompt position must have
MIN_LAST_ROUTE_GAP, and transformers' own bfloat16 forward must stay within MAX_BF16_REL.
"""
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
GREEDY = {1: 4, 2: 3, 3: 4, 63: 5, 64: 4, 65: 4, 200: 8, 513: 4, 1100: 3}  # prompt length -> tokens to generate
MIN_GREEDY_GAP, MIN_ARGMAX_GAP, MIN_ROUTE_GAP, MIN_LAST_ROUTE_GAP = 2e-3, 2e-5, 2e-5, 0.1
MAX_BF16_REL, MAX_F32_REL = 0.15, 3e-5


def zero_centred_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (1 + weight)


def l2_norm(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, one file or many, as stored."""
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


class Reference:
    """The forward pass of Qwen3.5 and Qwen3-Next, dense and MoE, in float64. One sequence; `state` carries it on."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text())
        self.c = c = config.get("text_config", config)
        interval = c.get("full_attention_interval", 4)
        self.full = [t == "full_attention" for t in c["layer_types"]] if c.get("layer_types") else [
            (i + 1) % interval == 0 for i in range(c["num_hidden_layers"])]
        rope = c.get("rope_parameters") or c
        rot = int(c["head_dim"] * (rope.get("partial_rotary_factor") or c.get("partial_rotary_factor") or 0.25))
        self.inv_freq = float(rope["rope_theta"]) ** (-torch.arange(0, rot, 2, dtype=torch.float64) / rot)
        self.eps = c.get("rms_norm_eps", 1e-6)
        # Text tensors only: model.visual.* and mtp.* are dropped. Names below start at embed_tokens / layers / norm.
        self.w = {re.sub(r"^model\.(language_model\.)?", "", k): v.double() for k, v in read_tensors(folder).items()
                  if not k.startswith(("model.visual.", "mtp."))}
        self.head = self.w.get("lm_head.weight", self.w["embed_tokens.weight"])
        self.route_gaps: list[torch.Tensor] = []  # of each MoE layer and call: [tokens]

    def forward(self, ids: list[int], state: dict) -> torch.Tensor:
        """Logits [tokens, vocab] of `ids`, which follow the `state["length"]` tokens seen before."""
        x = self.w["embed_tokens.weight"][ids]
        start = state.setdefault("length", 0)
        for i, full in enumerate(self.full):
            p = f"layers.{i}."
            h = zero_centred_norm(x, self.w[p + "input_layernorm.weight"], self.eps)
            x = x + (self.attention(p + "self_attn.", h, state, start) if full else
                     self.delta_net(p + "linear_attn.", h, state))
            h = zero_centred_norm(x, self.w[p + "post_attention_layernorm.weight"], self.eps)
            x = x + (self.moe(p + "mlp.", h) if p + "mlp.gate.weight" in self.w else self.mlp(p + "mlp.", h))
        state["length"] = start + len(ids)
        return zero_centred_norm(x, self.w["norm.weight"], self.eps) @ self.head.T

    def rotate(self, x: torch.Tensor, start: int) -> torch.Tensor:
        """Rotary embedding of x [tokens, heads, dim]: pairs (i, i + rot/2) of the first rot dims. Text positions are
        equal in T, H and W, so the mrope sections do not matter."""
        half = len(self.inv_freq)
        angle = torch.arange(start, start + len(x), dtype=torch.float64)[:, None, None] * self.inv_freq
        a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], -1)

    def attention(self, p: str, h: torch.Tensor, state: dict, start: int) -> torch.Tensor:
        c, w, n = self.c, self.w, len(h)
        hq, hkv, d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        q, gate = (h @ w[p + "q_proj.weight"].T).view(n, hq, 2, d).unbind(2)  # per head: query, then gate
        k, v = ((h @ w[p + s + "_proj.weight"].T).view(n, hkv, d) for s in "kv")
        q = self.rotate(zero_centred_norm(q, w[p + "q_norm.weight"], self.eps), start)
        k = self.rotate(zero_centred_norm(k, w[p + "k_norm.weight"], self.eps), start)
        if start:
            k, v = torch.cat([state[p + "k"], k]), torch.cat([state[p + "v"], v])
        state[p + "k"], state[p + "v"] = k, v
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        k, v = k.repeat_interleave(hq // hkv, 0), v.repeat_interleave(hq // hkv, 0)
        unseen = torch.ones(n, start + n, dtype=torch.bool).triu(start + 1)
        o = ((q @ k.mT) * d ** -0.5).masked_fill(unseen, float("-inf")).softmax(-1) @ v
        return (o.transpose(0, 1) * gate.sigmoid()).reshape(n, -1) @ w[p + "o_proj.weight"].T

    def delta_net(self, p: str, h: torch.Tensor, state: dict) -> torch.Tensor:
        c, w, n = self.c, self.w, len(h)
        hk, hv, dk, dv = (c["linear_" + s] for s in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim"))
        r = hv // hk
        if p + "in_proj_qkvz.weight" in w:  # Qwen3-Next: grouped by key head, [q, k, r v, r z] and [r b, r a]
            q, k, v, z = (h @ w[p + "in_proj_qkvz.weight"].T).view(n, hk, -1).split([dk, dk, r * dv, r * dv], -1)
            b, a = (h @ w[p + "in_proj_ba.weight"].T).view(n, hk, 2 * r).split([r, r], -1)
            mixed = torch.cat([t.reshape(n, -1) for t in (q, k, v)], -1)
            z, b, a = (t.reshape(n, -1) for t in (z, b, a))
        else:
            mixed, z, b, a = (h @ w[p + f"in_proj_{s}.weight"].T for s in ("qkv", "z", "b", "a"))
        # Causal depthwise convolution over the inputs, then SiLU; the last width-1 inputs are carried on.
        kernel = w[p + "conv1d.weight"].squeeze(1)
        width = kernel.shape[1]
        seen = torch.cat([state.get(p + "conv", mixed.new_zeros(width - 1, mixed.shape[1])), mixed])
        state[p + "conv"] = seen[-(width - 1):]
        mixed = F.silu(sum(seen[j:j + n] * kernel[:, j] for j in range(width)))
        q, k, v = mixed.split([hk * dk, hk * dk, hv * dv], -1)
        # Value head i reads key head i // r.
        q = (l2_norm(q.view(n, hk, dk)) * dk ** -0.5).repeat_interleave(r, 1)
        k = l2_norm(k.view(n, hk, dk)).repeat_interleave(r, 1)
        v = v.view(n, hv, dv)
        decay = (-w[p + "A_log"].exp() * F.softplus(a + w[p + "dt_bias"])).exp()
        beta = b.sigmoid()
        s = state.get(p + "s", h.new_zeros(hv, dv, dk))
        out = torch.empty(n, hv, dv, dtype=torch.float64)
        for t in range(n):
            s = s * decay[t, :, None, None]
            u = beta[t, :, None] * (v[t] - (s @ k[t, :, :, None]).squeeze(-1))
            s = s + u[:, :, None] * k[t, :, None, :]
            out[t] = (s @ q[t, :, :, None]).squeeze(-1)
        state[p + "s"] = s
        # Output norm per value head with a plain weight (not 1 + w), then the gate.
        out = out * torch.rsqrt(out.pow(2).mean(-1, keepdim=True) + self.eps) * w[p + "norm.weight"]
        return (out.reshape(n, -1) * F.silu(z)) @ w[p + "out_proj.weight"].T

    def mlp(self, p: str, h: torch.Tensor) -> torch.Tensor:
        w = self.w
        return (F.silu(h @ w[p + "gate_proj.weight"].T) * (h @ w[p + "up_proj.weight"].T)) @ w[p + "down_proj.weight"].T

    def expert(self, p: str, e: int, h: torch.Tensor) -> torch.Tensor:
        if p + "experts.down_proj" not in self.w:
            return self.mlp(f"{p}experts.{e}.", h)
        gate, up = (h @ self.w[p + "experts.gate_up_proj"][e].T).chunk(2, -1)
        return (F.silu(gate) * up) @ self.w[p + "experts.down_proj"][e].T

    def moe(self, p: str, h: torch.Tensor) -> torch.Tensor:
        logits, top = h @ self.w[p + "gate.weight"].T, self.c["num_experts_per_tok"]
        ordered = logits.sort(-1, descending=True).values
        self.route_gaps.append(ordered[:, top - 1] - ordered[:, top])
        weight, index = logits.softmax(-1).topk(top, -1)
        if self.c.get("norm_topk_prob", True):  # the qwen3_5_moe configuration has no such field: always
            weight = weight / weight.sum(-1, keepdim=True)
        out = (h @ self.w[p + "shared_expert_gate.weight"].T).sigmoid() * self.mlp(p + "shared_expert.", h)
        for e in index.unique().tolist():
            token, slot = (index == e).nonzero(as_tuple=True)
            out[token] += weight[token, slot, None] * self.expert(p, e, h[token])
        return out


def relative(x: torch.Tensor, exact: torch.Tensor) -> float:
    return float((x.double() - exact).norm() / exact.norm())


def gap(logits: torch.Tensor) -> torch.Tensor:
    """Distance of the two best logits, for each row."""
    best = logits.topk(2, -1).values
    return best[..., 0] - best[..., 1]


def exact_case(ref: Reference, prompt: list[int], count: int) -> tuple[dict, bool]:
    """The float64 result of a prompt and whether it is clear enough to be kept."""
    state: dict = {}
    ref.route_gaps = []
    logits = ref.forward(prompt, state)
    last_route = min((float(g[-1]) for g in ref.route_gaps), default=1.0)  # before the greedy steps add theirs
    greedy, gaps, row = [], [], logits[-1]
    for i in range(count):
        greedy.append(int(row.argmax()))
        gaps.append(float(gap(row)))
        if i + 1 < count:
            row = ref.forward(greedy[-1:], state)[-1]
    route = min((float(g.min()) for g in ref.route_gaps), default=1.0)
    case = dict(prompt=prompt, greedy=greedy, last_logits=logits[-1], mid_logits_argmax=logits.argmax(-1).tolist(),
                margin=gaps[0], greedy_min_gap=min(gaps), argmax_min_gap=float(gap(logits).min()))
    clear = (min(gaps) >= MIN_GREEDY_GAP and case["argmax_min_gap"] >= MIN_ARGMAX_GAP and route >= MIN_ROUTE_GAP
             and last_route >= MIN_LAST_ROUTE_GAP)
    return case, clear


def load_peers(folder: Path) -> dict[str, torch.nn.Module]:
    peers = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        peers[name], info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
            raise SystemExit(f"{folder.name}: transformers does not know these names: {info}")
        peers[name].eval()
    return peers


def compare_peers(peers: dict[str, torch.nn.Module], case: dict) -> None:
    """Adds f32_rel and bf16_rel, and makes sure that transformers in float32 picks the same tokens."""
    ids = torch.tensor([case["prompt"]])
    logits = {name: model(ids).logits[0] for name, model in peers.items()}
    for name, value in logits.items():
        case[name + "_rel"] = relative(value[-1], case["last_logits"])
    if logits["f32"].argmax(-1).tolist() != case["mid_logits_argmax"] or case["f32_rel"] > MAX_F32_REL:
        raise SystemExit(f"transformers f32 differs at prompt length {ids.shape[1]}: {case['f32_rel']:.2e}")
    out = peers["f32"].generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(case["greedy"]),
                                do_sample=False, eos_token_id=None, pad_token_id=0)
    if out[0, ids.shape[1]:].tolist() != case["greedy"]:
        raise SystemExit(f"transformers f32 generates other tokens at prompt length {ids.shape[1]}")


def draw_case(ref: Reference, peers: dict[str, torch.nn.Module], n: int, seed: int) -> dict:
    for attempt in range(200):
        rng = np.random.default_rng([seed, n, attempt])
        case, clear = exact_case(ref, rng.integers(0, ref.c["vocab_size"], n).tolist(), GREEDY[n])
        if clear:
            compare_peers(peers, case)
            if case["bf16_rel"] < MAX_BF16_REL:
                return case
    raise SystemExit(f"no clear prompt of length {n}")


def make_cases(folder: Path, lengths: list[int], seed: int) -> list[dict]:
    ref, peers, cases = Reference(folder), load_peers(folder), []
    for n in lengths:
        case = draw_case(ref, peers, n, seed)
        case["last_logits"] = [round(x, 8) for x in case["last_logits"].tolist()]
        cases.append(case)
        print(f"{folder.name} {n:5d}  f32 {case['f32_rel']:.1e}  bf16 {case['bf16_rel']:.1e}  "
              f"greedy gap {case['greedy_min_gap']:.1e}  argmax gap {case['argmax_min_gap']:.1e}", flush=True)
    return cases


BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def random_tensor(name: str, shape: list[int], rng: np.random.Generator) -> torch.Tensor:
    """Values that keep activations near 1 and use the whole range of gates, by the tensor's role."""
    leaf = name.split(".linear_attn.")[-1]
    if leaf == "A_log":  # decay rates from nearly none to a state that is forgotten at once
        value = np.log(rng.permutation(np.geomspace(0.02, 16.0, shape[0])))
    elif leaf == "dt_bias":
        value = rng.uniform(-4.0, 2.0, shape)
    elif leaf == "conv1d.weight":
        value = rng.normal(0, 0.5, shape)
    elif leaf == "norm.weight" and leaf != name:  # the plain weight of the gated norm; all others are 1 + w
        value = rng.normal(1, 0.1, shape)
    elif len(shape) == 1:
        value = rng.normal(0, 0.1, shape)
    else:
        value = rng.normal(0, np.prod(shape[1:] if "visual" in name else shape[-1:]) ** -0.5, shape)
    return torch.tensor(value, dtype=F32).reshape(shape)


def text_shapes(folder: Path, split_experts: bool) -> dict[str, list[int]]:
    """Names (text-only form) and shapes of the text tensors, as transformers declares them for the configuration."""
    config = transformers.AutoConfig.from_pretrained(folder).get_text_config()
    with torch.device("meta"):
        declared = transformers.AutoModelForCausalLM.from_config(config).state_dict()
    shapes: dict[str, list[int]] = {}
    for name, tensor in declared.items():
        shape = list(tensor.shape)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        base, leaf = name.rsplit(".", 1)
        if not split_experts or ".experts." not in name:
            shapes[name] = shape
        elif leaf == "down_proj":
            shapes |= {f"{base}.{e}.down_proj.weight": shape[1:] for e in range(shape[0])}
        else:
            shapes |= {f"{base}.{e}.{part}_proj.weight": [shape[1] // 2, shape[2]]
                       for e in range(shape[0]) for part in ("gate", "up")}
    return shapes


# Tensors of golden_nested that a text loader must pass over: prediction head and vision tower.
SKIPPED = {"mtp.fc.weight": [96, 192], "mtp.norm.weight": [96], "mtp.layers.0.self_attn.q_norm.weight": [96],
           "model.visual.patch_embed.proj.weight": [16, 3, 2, 4, 4], "model.visual.patch_embed.proj.bias": [16],
           "model.visual.blocks.0.attn.qkv.weight": [48, 16], "model.visual.merger.norm.weight": [16]}


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], count: int) -> None:
    """Cuts the tensors, in order, into `count` files of about equal size, with the index that names them."""
    total = sum(t.nbytes for t in tensors.values())
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    weight_map: dict[str, str] = {}
    done = 0
    for name, t in tensors.items():
        shards[min(count - 1, (done + t.nbytes // 2) * count // total)][name] = t
        done += t.nbytes
    for i, shard in enumerate(shards):
        file = f"model.safetensors-{i + 1:05d}-of-{count:05d}.safetensors"
        assert shard, "a shard without tensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def linear(hk: int, hv: int, dk: int, dv: int) -> dict[str, int]:
    return dict(linear_num_key_heads=hk, linear_num_value_heads=hv, linear_key_head_dim=dk, linear_value_head_dim=dv,
                linear_conv_kernel_dim=4)


L, A = "linear_attention", "full_attention"
VISION = dict(model_type="qwen3_5", depth=1, hidden_size=16, intermediate_size=32, num_heads=2, in_channels=3, patch_size=4,
              spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=96, num_position_embeddings=16,
              hidden_act="gelu_pytorch_tanh")
COMMON = dict(hidden_act="silu", rms_norm_eps=1e-6, max_position_embeddings=32768, dtype="bfloat16")
CONFIGS: dict[str, dict] = {
    "golden_nested": dict(  # as the official multimodal files, where the text model is one part
        architectures=["Qwen3_5ForConditionalGeneration"], model_type="qwen3_5", image_token_id=380, video_token_id=381,
        vision_start_token_id=378, vision_end_token_id=379, tie_word_embeddings=False, vision_config=VISION,
        text_config=COMMON | linear(2, 6, 32, 48) | dict(
            model_type="qwen3_5_text", vocab_size=384, hidden_size=96, intermediate_size=160, num_hidden_layers=5,
            num_attention_heads=6, num_key_value_heads=2, head_dim=96, attention_bias=False, attention_dropout=0.0,
            attn_output_gate=True, layer_types=[A, L, L, A, L], full_attention_interval=4, mamba_ssm_dtype="float32",
            mtp_num_hidden_layers=1, mtp_use_dedicated_embeddings=False, tie_word_embeddings=False,
            rope_parameters=dict(mrope_interleaved=True, mrope_section=[4, 4, 4], rope_type="default",
                                 rope_theta=10000000, partial_rotary_factor=0.25))),
    "golden_moe_stacked": COMMON | linear(2, 8, 32, 32) | dict(
        architectures=["Qwen3_5MoeForCausalLM"], model_type="qwen3_5_moe_text", vocab_size=512, hidden_size=128,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1, head_dim=64, num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=32, shared_expert_intermediate_size=48, tie_word_embeddings=True, attention_bias=False,
        layer_types=[L, A, L, L],
        rope_parameters=dict(rope_type="default", rope_theta=100000.0, partial_rotary_factor=0.5)),
    # Old style: no rope_parameters, no layer_types, and partial_rotary_factor (0.25), tie_word_embeddings (false) and
    # attention_bias (false) left to their defaults.
    "golden_moe_split": COMMON | linear(3, 3, 64, 64) | dict(
        architectures=["Qwen3_5MoeForCausalLM"], model_type="qwen3_5_moe_text", vocab_size=448, hidden_size=96,
        num_hidden_layers=6, num_attention_heads=3, num_key_value_heads=1, head_dim=64, num_experts=10,
        num_experts_per_tok=3, moe_intermediate_size=24, shared_expert_intermediate_size=40, full_attention_interval=2,
        rope_theta=50000.0, rope_scaling=None),
}
# What is not stored as BF16, by the end of the name.
DTYPES: dict[str, dict[str, torch.dtype]] = {
    "golden_nested": {"A_log": F32, "linear_attn.norm.weight": F32},
    "golden_moe_stacked": {},
    "golden_moe_split": {"A_log": F32, "dt_bias": F16, "conv1d.weight": F32, "linear_attn.norm.weight": F16,
                         "q_norm.weight": F32, "input_layernorm.weight": F16, "mlp.gate.weight": F32,
                         "shared_expert_gate.weight": F16},
}


def make(name: str) -> None:
    config, folder, seed = CONFIGS[name], HERE / name, 7 + list(CONFIGS).index(name)
    nested, split = "text_config" in config, name == "golden_moe_split"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shapes = text_shapes(folder, split)
    if nested:
        shapes = {re.sub(r"^model\.", "model.language_model.", k): v for k, v in shapes.items()}
        shapes |= SKIPPED
    rng, tensors = np.random.default_rng(seed), {}
    for k, shape in shapes.items():
        dtype = next((d for end, d in DTYPES[name].items() if k.endswith(end) and not k.startswith("mtp.")), BF16)
        tensors[k] = random_tensor(k, shape, rng).to(dtype)
    if nested:
        write_shards(folder, tensors, 13)
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    lengths = [n for n in GREEDY if n != 1100 or nested]
    expected = dict(kind="qwen3_5" if nested else "qwen3_5_moe", transformers=transformers.__version__,
                    cases=make_cases(folder, lengths, seed), arithmetic="float64, delta rule token by token")
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def check(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    ref, peers = Reference(folder), load_peers(folder)
    for stored in expected["cases"]:
        case, _ = exact_case(ref, stored["prompt"], len(stored["greedy"]))
        compare_peers(peers, case)
        same = all(case[k] == stored[k] for k in ("greedy", "mid_logits_argmax"))
        rel = relative(torch.tensor(stored["last_logits"], dtype=torch.float64), case["last_logits"])
        gaps = max(abs(case[k] - stored[k]) for k in ("margin", "greedy_min_gap", "argmax_min_gap"))
        print(f"{folder.name} {len(case['prompt']):5d}  tokens {'same' if same else 'DIFFER'}  stored logits {rel:.1e}  "
              f"gaps {gaps:.1e}  f32 {case['f32_rel']:.1e} ({stored['f32_rel']:.1e})  bf16 {case['bf16_rel']:.1e} "
              f"({stored['bf16_rel']:.1e})", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    command, names = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if command not in ("make", "check") or (command == "check" and not names):
        raise SystemExit(__doc__)
    for n in names or CONFIGS:
        make(n) if command == "make" else check(Path(n))
