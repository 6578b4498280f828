// The next tokens of a step's rows: chosen by the device, or by the samplers of the requests.
#include <algorithm>

#include "engine/serve/step_rows.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {

/// nullptr where it has ended, or waits.
Engine::Running* Engine::find_running(std::uint64_t request) {
  const auto at =
      std::lower_bound(running_.begin(), running_.end(), request,
                       [](const Running& running, std::uint64_t id) { return running.id < id; });
  return at != running_.end() && at->id == request && at->row.index >= 0 ? &*at : nullptr;
}

std::vector<Engine::Wanted> Engine::wanted_of(const Step& step) {
  std::vector<Wanted> all;
  for (std::size_t r = 0; r < step.rows.size(); ++r) {
    const StepRow& row = step.rows[r];
    if (!row.sampled) continue;
    const std::int32_t wanted = row.kind == RowKind::kVerify ? row.tokens : 1;
    for (std::int32_t i = row.tokens - wanted; i < row.tokens; ++i) {
      all.push_back({row.first_token + i, r});
    }
  }
  return all;
}

/// Whether the device may choose: it has no history.
bool Engine::logits_suffice(const Step& step, std::span<const Wanted> wanted) {
  return std::none_of(wanted.begin(), wanted.end(), [&](const Wanted& each) {
    return step.rows[each.row].sampling.reads_history();
  });
}

void Engine::accept(Running& running, std::int32_t token, std::vector<TokenEvent>& events) {
  running.history.push_back(token);
  TokenEvent event{running.id, token, Finish::kNone};
  const auto& eos = model().config().eos_token_ids;
  if (!running.request.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) {
    event.finish = Finish::kEos;
  } else if (static_cast<std::int64_t>(running.history.size()) >= running.limit) {
    event.finish = Finish::kLength;
  }
  if (event.finish != Finish::kNone) close(running);
  events.push_back(event);
}

/// Takes the token behind the row's tokens so far. In a row of drafts it goes on for as long as the
/// sampler takes what was drafted.
void Engine::take_token(const Step& step, StepRow& row, Running& running, std::int32_t token,
                        std::vector<TokenEvent>& events) {
  accept(running, token, events);
  const std::int32_t next = row.first_token + row.matched + 1;
  row.stopped = running.row.index < 0 || next == row.first_token + row.tokens ||
                step.ids[static_cast<std::size_t>(next)] != token;
  if (!row.stopped) ++row.matched;
}

/// The logits come to the host, whose sampler chooses.
Status Engine::sample_on_host(Step& step, std::span<const Wanted> wanted,
                              std::vector<TokenEvent>& events) {
  const auto vocab = static_cast<std::size_t>(model().config().vocab_size);
  std::vector<std::int32_t> tokens;
  for (const Wanted& each : wanted) tokens.push_back(each.token);
  logits_.resize(std::max(logits_.size(), wanted.size() * vocab));
  HYBRIDATTN_TRY(this->logits(tokens, logits_.data()));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    StepRow& row = step.rows[wanted[i].row];
    Running* const running = find_running(row.request);
    if (row.stopped || running == nullptr) continue;
    const std::span<float> logits(logits_.data() + i * vocab, vocab);
    HYBRIDATTN_TRY(check_logits(logits, running->history.size()));
    const TraceSpan span(lead().context(), "sample");
    const std::int32_t id = engine::sample(row.sampling, logits, running->history, row.vocab_limit,
                                           row.said + row.matched);
    take_token(step, row, *running, id, events);
  }
  return {};
}

Result<Choices> Engine::choose_on_device(const Step& step, std::span<const Wanted> wanted) {
  std::vector<std::int32_t> tokens;
  std::vector<Draw> draws;
  for (const Wanted& each : wanted) {
    const StepRow& row = step.rows[each.row];
    const std::int32_t drafts = row.kind == RowKind::kVerify ? each.token - row.first_token : 0;
    tokens.push_back(each.token);
    draws.push_back(draw_of(row.sampling, row.vocab_limit, row.said + drafts));
  }
  Choices choices;
  HYBRIDATTN_TRY(on_ranks([&](ModelRank& rank) -> Status {
    HYBRIDATTN_ASSIGN(Choices chosen, rank.model().choose(tokens, draws));
    if (&rank == &lead()) choices = std::move(chosen);
    return {};
  }));
  return choices;
}

/// The device chooses, and the host gets ids.
Status Engine::sample_on_device(Step& step, std::span<const Wanted> wanted,
                                std::vector<TokenEvent>& events) {
  HYBRIDATTN_ASSIGN(const Choices choices, choose_on_device(step, wanted));
  HYBRIDATTN_ASSIGN(const std::span<const NextToken> chosen, this->chosen(choices));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    StepRow& row = step.rows[wanted[i].row];
    Running* const running = find_running(row.request);
    if (row.stopped || running == nullptr) continue;
    const NextToken& token = chosen[static_cast<std::size_t>(choices.places[i])];
    if (token.finite == 0) return logits_error(running->history.size());
    take_token(step, row, *running, token.id, events);
  }
  return {};
}

Status Engine::sample(Step& step, std::span<const Wanted> all, std::vector<TokenEvent>& events) {
  const auto block = static_cast<std::size_t>(model().logits_block());
  for (std::size_t first = 0; first < all.size(); first += block) {
    const auto wanted = all.subspan(first, std::min(block, all.size() - first));
    const bool on_device = model().weights().on_device() && logits_suffice(step, wanted);
    HYBRIDATTN_TRY(on_device ? sample_on_device(step, wanted, events)
                             : sample_on_host(step, wanted, events));
  }
  return {};
}

}  // namespace hybridattn::engine
