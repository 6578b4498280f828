"""Holds docs/upstream.md: no item of the upstream surface is missing, and what a line names exists.

Usage: upstream_rule.py REPOSITORY. The items are listed here by section, so that a line cannot be lost
with its table. Each line's C++ name must stand in a public header (or in the engine), and its last cell
must name a test suite of tests/ or say that it is not served, and why.
"""
import pathlib
import re
import sys

ITEMS = {
    "1 Exports": """AttentionBackend, AttentionType, RadixAttention, RadixLinearAttention,
        FlashInferAttnBackend, DecodeMetadata, PrefillMetadata, GDNForwardMetadata, WrapperDispatch,
        should_use_tensor_core, GDNAttnBackend, HybridAttnBackend, gdn_chunkwise, gdn_decode, gdn_extend,
        gdn_extend_chunkwise""",
    "2 AttentionBackend": """init_forward_metadata, forward_decode, forward_extend, forward, forward_gdn,
        save_kv_cache, get_cuda_graph_seq_len_fill_value, init_cuda_graph_state,
        init_forward_metadata_capture_cuda_graph, init_forward_metadata_replay_cuda_graph""",
    "3 HybridAttnBackend": """full_attn_backend, gdn_backend, full_attn_layer_ids, log of layer counts,
        HybridAttnBackend.init_forward_metadata, HybridAttnBackend.forward_decode,
        HybridAttnBackend.forward_extend, HybridAttnBackend.forward_gdn,
        HybridAttnBackend.get_cuda_graph_seq_len_fill_value, HybridAttnBackend.init_cuda_graph_state,
        HybridAttnBackend.capture, HybridAttnBackend.replay, HybridAttnBackend.forward""",
    "4 FlashInferAttnBackend": """num_heads, num_kv_heads, head_dim, kv_cache_dtype, q_dtype,
        max_context_len, req_to_token, device, max_req_pool_size, sliding_window_size, skip_prefill,
        kv_indptr_buf, kv_last_page_len_buf, init_new_workspace, PYMLLM_FLASHINFER_WORKSPACE_SIZE,
        init_forward_metadata of FlashInfer, forward_extend of FlashInfer, forward_decode of FlashInfer,
        k and v None, sm_scale, logits_soft_cap, init_cuda_graph_state(kv_indices_buf),
        capture of FlashInfer, replay of FlashInfer, fast_decode_plan, WrapperDispatch.SLIDING_WINDOW,
        WrapperDispatch.CROSS_ATTENTION""",
    "5 GDNAttnBackend": """cache_indices, cu_seqlens, GDN init_forward_metadata,
        GDN init_cuda_graph_state, GDN capture and replay, GDN forward_decode, GDN forward_extend,
        GDN forward_gdn, server.gdn_decode_backend, PYMLLM_GDN_EXTEND_BACKEND, server.gdn_extend_backend,
        kernel choice logged once, conv_weight, A_log, dt_bias""",
    "6 Layers": """tp_q_head_num, tp_k_head_num, tp_v_head_num, qk_head_dim, v_head_dim, scaling,
        layer_id, logit_cap, sliding_window_size of a layer, is_cross_attention, attn_type,
        AttentionType.DECODER, AttentionType.DECODER_BIDIRECTIONAL, AttentionType.ENCODER_ONLY,
        RadixAttention.forward, gdn_layer_idx, num_k_heads, num_v_heads, head_k_dim, head_v_dim,
        RadixLinearAttention.forward, GatedDeltaNet""",
    "7 ForwardMode and ForwardBatch": """ForwardMode.EXTEND, ForwardMode.DECODE, ForwardMode.MIXED,
        ForwardMode.IDLE, is_extend, is_prefill, is_decode, is_mixed, is_idle, is_decode_or_idle,
        forward_mode, batch_size, input_ids, req_pool_indices, seq_lens, out_cache_loc, seq_lens_sum,
        seq_lens_cpu, positions, extend_num_tokens, extend_seq_lens, extend_prefix_lens,
        extend_start_loc, extend_prefix_lens_cpu, extend_seq_lens_cpu, return_logprob,
        top_logprobs_nums, req_to_token_pool, token_to_kv_pool, attn_backend, mrope_position_deltas,
        pixel_values, image_grid_thw""",
    "8 Pools": """KVPool, get_key_buffer, get_value_buffer, get_kv_buffer, set_kv_buffer, slot 0 = pad,
        TokenToKVPoolAllocator, TokenToKVPoolAllocator.clear, TokenToKVPoolAllocator.available_size,
        TokenToKVPoolAllocator.alloc, TokenToKVPoolAllocator.free, free_group_begin, free_group_end,
        merge_and_sort_free, page_size, ReqToTokenPool, ReqToTokenPool.alloc, ReqToTokenPool.free,
        ReqToTokenPool.write, ReqToTokenPool.available_size, ReqToTokenPool.clear,
        make_full_attention_net_mem_pool, make_req_to_token_pool, GDNPool, get_layer_state,
        reset_states, alloc_track_slot, free_track_slot, copy_states, mem_bytes""",
    "9 Prefix caches": """RadixKey, hash_token_ids, hash_to_int64, hash_bytes, MatchResult,
        InsertResult, EvictResult, BasePrefixCache, inc_lock_ref, dec_lock_ref, RadixCache, ChunkCache,
        MambaRadixCache""",
    "10 Order of calls": """load model, init_memory_pool, init_attention_backend, init_cuda_graphs,
        prepare_forward_batch_extend, prepare_forward_batch_decode, ModelRunner.forward,
        IDLE without a backend call, last-token logits, capture sizes, two warm-ups before a capture,
        capture failure, can_run, populate buffers, outputs sliced to the real rows, shutdown,
        is_capture_mode, model_capture_mode, freeze_gc, get_global_graph_memory_pool,
        set_global_graph_memory_pool""",
}
DEFECTS = [f"D{i}" for i in range(1, 8)]
SUITE = re.compile(r"^\s*(?:TEST(?:_F|_P)?\(|INSTANTIATE_TEST_SUITE_P\(\s*\w+,\s*)(\w+)", re.M)


def sources(root: pathlib.Path, *folders: str) -> str:
    files = [f for folder in folders for f in sorted((root / folder).rglob("*.h"))]
    return "\n".join(f.read_text(encoding="utf-8") for f in files)


def suites(root: pathlib.Path) -> set[str]:
    found = set()
    for file in sorted((root / "tests").rglob("*_test.cc")):
        text = file.read_text(encoding="utf-8")
        found |= set(SUITE.findall(text))
    return found


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of each section's table, as cells."""
    out: dict[str, list[list[str]]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:]
            out[section] = []
        elif line.startswith("|") and not line.startswith(("|---", "| upstream |", "| defect |")):
            out[section].append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return out


def check_row(section: str, cells: list[str], public: str, engine: str, tests: set[str]) -> list[str]:
    if len(cells) != 4:
        return [f"{section}: {cells[0]} has {len(cells)} cells, must have 4"]
    problems = []
    name = cells[1].strip("`")
    if name != "-" and not re.search(rf"\b{re.escape(name)}\b", public + engine):
        problems.append(f"{section}: {cells[0]}: {name} is in no header")
    named = re.findall(r"`(\w+)`", cells[3])
    missing = [test for test in named if test not in tests and not re.search(rf"\b{test}\b", public)]
    problems += [f"{section}: {cells[0]}: there is no test {test}" for test in missing]
    refused = re.search(r"not served|refused", cells[3])
    if not refused and not any(test in tests for test in named):
        problems.append(f"{section}: {cells[0]} names no test and no reason")
    return problems


def violations(root: pathlib.Path) -> list[str]:
    found = tables((root / "docs/upstream.md").read_text(encoding="utf-8"))
    public, engine, tests = sources(root, "include"), sources(root, "engine"), suites(root)
    problems = []
    for section, items in ITEMS.items():
        rows = found.get(section, [])
        listed = " ".join(row[0] for row in rows)
        for item in re.split(r",\s+", items):
            if not re.search(rf"(?<![\w.]){re.escape(item)}(?![\w])", listed):
                problems.append(f"docs/upstream.md, {section}: {item} is missing")
        for row in rows:
            problems += check_row(section, row, public, engine, tests)
    defects = {row[0][:2]: row for section, rows in found.items() if "defects" in section for row in rows}
    for defect in DEFECTS:
        test = defects.get(defect, ["", "", ""])[2].strip("`")
        if test not in tests:
            problems.append(f"docs/upstream.md: {defect} has no test")
    return problems


def main() -> int:
    found = violations(pathlib.Path(sys.argv[1]))
    print("\n".join(found) if found else "every item of the upstream surface has its line")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
