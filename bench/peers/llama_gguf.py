#!/usr/bin/env python3
"""Writes random bf16 weights in the shape of a Qwen3.5 checkpoint as a GGUF file that llama-bench runs.

    llama_gguf.py --model DIR --gguf-py llama.cpp/gguf-py --out FILE

Shapes come from DIR/config.json (a checkpoint of scripts/make_random_checkpoint); there is no tokenizer. Wants numpy
and what gguf-py wants (pyyaml, tqdm, requests).
"""
import argparse
import json
import os
import sys

SHARE = 16384  # rows of a matrix that are drawn at a time


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf-py", required=True)
    parser.add_argument("--out", required=True)
    return parser.parse_args()


o = parse_options()
sys.path.insert(0, o.gguf_py)
import gguf  # noqa: E402
import numpy  # noqa: E402

with open(os.path.join(o.model, "config.json")) as config_file:
    config = json.load(config_file)
c = config.get("text_config", config)
random = numpy.random.default_rng(1)
writer = gguf.GGUFWriter(o.out, "qwen35")


def add_matrix(name: str, rows: int, columns: int) -> None:
    """Normal numbers of deviation 0.02, rounded to bf16."""
    bits = numpy.empty((rows, columns), numpy.uint16)
    for at in range(0, rows, SHARE):
        part = random.standard_normal((min(SHARE, rows - at), columns), numpy.float32) * numpy.float32(0.02)
        wide = part.view(numpy.uint32)
        bits[at:at + SHARE] = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16
    writer.add_tensor(name, bits.view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)


def add_vector(name: str, values) -> None:
    writer.add_tensor(name, numpy.asarray(values, numpy.float32))


def add_header() -> None:
    rope = c.get("rope_parameters") or c
    head_dim = c["head_dim"]
    writer.add_name("random")
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(32768)
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(float(rope.get("rope_theta", 1e7)))
    writer.add_rope_dimension_count(int(head_dim * float(rope.get("partial_rotary_factor", 0.25))))
    writer.add_rope_dimension_sections([11, 11, 10, 0])
    writer.add_ssm_conv_kernel(c["linear_conv_kernel_dim"])
    writer.add_ssm_inner_size(c["linear_num_value_heads"] * c["linear_value_head_dim"])
    writer.add_ssm_state_size(c["linear_key_head_dim"])
    writer.add_ssm_time_step_rank(c["linear_num_value_heads"])
    writer.add_ssm_group_count(c["linear_num_key_heads"])
    writer.add_uint32("qwen35.full_attention_interval", c.get("full_attention_interval", 4))
    writer.add_vocab_size(c["vocab_size"])
    writer.add_tokenizer_model("none")


def add_attention(prefix: str) -> None:
    hidden, head = c["hidden_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    add_matrix(prefix + "attn_q.weight", 2 * queries, hidden)
    add_matrix(prefix + "attn_k.weight", keys, hidden)
    add_matrix(prefix + "attn_v.weight", keys, hidden)
    add_matrix(prefix + "attn_output.weight", hidden, queries)
    add_vector(prefix + "attn_q_norm.weight", numpy.ones(head))
    add_vector(prefix + "attn_k_norm.weight", numpy.ones(head))


def add_delta_net(prefix: str) -> None:
    hidden, heads = c["hidden_size"], c["linear_num_value_heads"]
    values = heads * c["linear_value_head_dim"]
    channels = 2 * c["linear_num_key_heads"] * c["linear_key_head_dim"] + values
    add_matrix(prefix + "attn_qkv.weight", channels, hidden)
    add_matrix(prefix + "attn_gate.weight", values, hidden)
    add_vector(prefix + "ssm_conv1d.weight", random.standard_normal((channels, c["linear_conv_kernel_dim"])) * 0.3)
    add_vector(prefix + "ssm_dt.bias", numpy.ones(heads))
    add_vector(prefix + "ssm_a", -numpy.exp(random.uniform(0, 2.5, heads)))
    add_matrix(prefix + "ssm_beta.weight", heads, hidden)
    add_matrix(prefix + "ssm_alpha.weight", heads, hidden)
    add_vector(prefix + "ssm_norm.weight", numpy.ones(c["linear_value_head_dim"]))
    add_matrix(prefix + "ssm_out.weight", hidden, values)


def add_layer(index: int) -> None:
    prefix = f"blk.{index}."
    hidden, width = c["hidden_size"], c["intermediate_size"]
    add_vector(prefix + "attn_norm.weight", numpy.ones(hidden))
    add_vector(prefix + "post_attention_norm.weight", numpy.ones(hidden))
    if (index + 1) % c.get("full_attention_interval", 4) == 0:
        add_attention(prefix)
    else:
        add_delta_net(prefix)
    add_matrix(prefix + "ffn_gate.weight", width, hidden)
    add_matrix(prefix + "ffn_up.weight", width, hidden)
    add_matrix(prefix + "ffn_down.weight", hidden, width)


add_header()
add_matrix("token_embd.weight", c["vocab_size"], c["hidden_size"])
add_vector("output_norm.weight", numpy.ones(c["hidden_size"]))
for layer in range(c["num_hidden_layers"]):
    add_layer(layer)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
