-- view: reads what the manager needs to decide on growth and evictions, in bounded size.
-- include: limits workers queues leases
-- ARGV    2 the most queues to look at  3 the most queues to return  4 the most idle workers and targets to return
-- reads   runtimes, policy, busy, the heads of warm:, escalated:, idle, held and assigned_at, the workers named there
-- writes  for queues that are served now their entries, what lease writes, grants:<holder>; escalated:, blocked:
-- returns JSON (see `pool/policy.py`)
-- promises  Queues that a limit blocks are not among the first escalated ones. Queues that no limit blocks any more are
--           escalated. Escalated queues have got the warm workers before new workers are started for them.

local runtimes, growing = {}, {}
local configured = call('HGETALL', RUNTIMES)
for at = 1, #configured, 2 do
  local runtime = configured[at]
  local warm = P .. 'warm:' .. runtime
  serve_unblocked(runtime)
  give_all_warm(runtime, 1)
  runtimes[#runtimes + 1] = {
    id = runtime, stock = tonumber(configured[at + 1]), warm = call('ZCARD', warm),
    starting = call('ZCARD', P .. 'starting:' .. runtime),
    first_calls = tonumber(call('HGET', POLICY, 'first ' .. runtime)) or 0,
    oldest_warm = call('ZRANGE', warm, 0, 0)[1],
  }
  local found, most = 0, tonumber(ARGV[3])
  for _, queue in ipairs(call('ZRANGE', P .. 'escalated:' .. runtime, 0, tonumber(ARGV[2]) - 1)) do
    if found == most then break end
    local _, target, project_id, kind = parse_queue(queue)
    local counts = read_counts(target, project_id, runtime)
    if not is_below(counts) then
      block(queue, runtime, project_id)
    else
      found = found + 1
      local waiting = 0
      for _, count in ipairs(call('HVALS', P .. 'counts:' .. queue)) do waiting = waiting + count end
      growing[#growing + 1] = {
        runtime = runtime, target = target, kind = kind, arrival = oldest(queue), held = held_by(target),
        rank = tonumber(call('ZSCORE', P .. 'escalated:' .. runtime, queue)), waiting = waiting,
        room = room_of(counts), busy_ms = tonumber(call('HGET', BUSY, target) or nil),
      }
    end
  end
  runtimes[#runtimes].escalated = call('ZCARD', P .. 'escalated:' .. runtime)
end

-- Candidates for eviction and recall. While there is room for the next starts, none are needed.
local idle, largest, longest_without_growth = {}, {}, {}

local function show_idle()
  local oldest_idle = call('ZRANGE', IDLE, 0, tonumber(ARGV[4]) - 1, 'WITHSCORES')
  for at = 1, #oldest_idle, 2 do
    local target = call('HGET', record(oldest_idle[at]), 'target')
    idle[#idle + 1] = {
      id = oldest_idle[at], used = tonumber(oldest_idle[at + 1]), target = target, held = held_by(target),
    }
  end
end

-- A target with one of its workers: an idle one, or else a busy one.
local function show(target, since)
  local function_id = function_of(target)
  local worker, state, recalled
  for _, candidate in ipairs(call('SRANDMEMBER', P .. 'assigned:' .. function_id, 8)) do
    local is = call('HMGET', record(candidate), 'state', 'target', 'drain', 'recalled', 'kept')
    if is[2] == target and not is[3] and not is[5] and (is[1] == 'idle' or is[1] == 'leased') then
      if (tonumber(is[4]) or 0) > now then
        recalled = (recalled or 0) + 1
      elseif not worker or is[1] == 'idle' then
        worker, state = candidate, is[1]
      end
    end
  end
  return {target = target, held = held_by(target), recalled = recalled or 0, worker = worker, state = state,
    since = since}
end

local workers = call('SCARD', WORKERS)
if workers + LOOK_AT > (tonumber(call('HGET', POLICY, 'max_workers')) or 0) then
  show_idle()
  for _, target in ipairs(call('ZREVRANGE', HELD, 0, tonumber(ARGV[4]) - 1)) do
    largest[#largest + 1] = show(target)
  end
  local assigned = call('ZRANGE', ASSIGNED_AT, 0, tonumber(ARGV[4]) - 1, 'WITHSCORES')
  for at = 1, #assigned, 2 do
    longest_without_growth[#longest_without_growth + 1] = show(assigned[at], tonumber(assigned[at + 1]))
  end
end

return cjson.encode({
  now = now, workers = workers, draining = call('ZCARD', DRAINING), targets = call('ZCARD', HELD),
  runtimes = runtimes, growing = growing, idle = idle, largest = largest,
  longest_without_growth = longest_without_growth,
})
