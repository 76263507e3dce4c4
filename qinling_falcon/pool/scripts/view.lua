-- view: reads what the manager needs to decide on growth, evictions and recalls, in bounded size.
-- ARGV    2 the most queues of a runtime, or targets of a list, to look at  3 the most queues of a runtime to return
--         4 the most idle workers and targets to return
-- reads   runtimes, policy, busy, recalls; of warm:, escalated:, idle, held and assigned_at the heads, and a further
--         page of the last three and of escalated:; the workers named there
-- writes  for queues that are served now their entries, what lease writes, grants:<holder>; escalated:, blocked:;
--         recalls and worker:<id> of recalls that have expired
-- returns JSON (see `pool/policy.py`)
-- promises  Queues that a limit blocks are not among the first escalated ones. At max_workers, of the queues whose
--           target has its share only the first is among them. Queues that no limit blocks any more are escalated.
--           Escalated queues have got the warm workers before new workers are started for them. All pending recalls
--           are returned. Targets without a worker that may be taken are not returned.

local LOOK, MOST_QUEUES, MOST = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local max_workers = tonumber(call('HGET', POLICY, 'max_workers')) or 0

-- Reads a sorted set, with scores: its head, and one further page. The further page is another one at each time.
-- Otherwise members at the head that are of no use could hide the others for ever.
local function read_pages(command, key)
  local half = LOOK / 2
  local found = call(command, key, 0, half - 1, 'WITHSCORES')
  local others = call('ZCARD', key) - half
  if others > 0 then
    local from = half + (others > half and now % others or 0)
    for _, part in ipairs(call(command, key, from, from + half - 1, 'WITHSCORES')) do found[#found + 1] = part end
  end
  return found
end

-- Escalated queues. At max_workers, one whose target has its share gets a worker only if there is no other queue.
local runtimes, growing = {}, {}

local function show_growing(runtime)
  local share = math.floor(max_workers / math.max(1, call('ZCARD', HELD)))
  local is_shared = share >= 2 and call('SCARD', WORKERS) >= max_workers
  local found, has_rich = 0, false
  local queues = read_pages('ZRANGE', P .. 'escalated:' .. runtime)
  for at = 1, #queues, 2 do
    if found == MOST_QUEUES then return end
    local queue = queues[at]
    local _, target, project_id, kind = parse_queue(queue)
    local counts, held = read_counts(target, project_id, runtime), held_by(target)
    local is_rich = is_shared and held >= share
    if not allows_one_more(counts) then
      block(queue, runtime, project_id)
    elseif not is_rich or not has_rich then
      if is_rich then has_rich = true else found = found + 1 end
      local waiting = 0
      for _, count in ipairs(call('HVALS', P .. 'counts:' .. queue)) do waiting = waiting + count end
      growing[#growing + 1] = {
        runtime = runtime, target = target, kind = kind, arrival = oldest(queue), held = held,
        rank = tonumber(queues[at + 1]), waiting = waiting, room = room_of(counts),
        busy_ms = tonumber(call('HGET', BUSY, target) or nil),
      }
    end
  end
end

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
  show_growing(runtime)
  runtimes[#runtimes].escalated = call('ZCARD', P .. 'escalated:' .. runtime)
end

-- Pending recalls. The policy makes a limited number of them.
for _, worker in ipairs(call('ZRANGEBYSCORE', RECALLS, '-inf', now)) do end_recall(worker) end
local recalled, recalled_of = call('ZRANGE', RECALLS, 0, -1), {}
for _, worker in ipairs(recalled) do
  local target = call('HGET', record(worker), 'target')
  recalled_of[target] = (recalled_of[target] or 0) + 1
end

-- Candidates for eviction and recall. While there is room for the next starts, none are needed.
local idle, largest, longest_without_growth = {}, {}, {}

local function show_idle()
  local oldest_idle = call('ZRANGE', IDLE, 0, MOST - 1, 'WITHSCORES')
  for at = 1, #oldest_idle, 2 do
    local target = call('HGET', record(oldest_idle[at]), 'target')
    idle[#idle + 1] = {
      id = oldest_idle[at], used = tonumber(oldest_idle[at + 1]), target = target, held = held_by(target),
    }
  end
end

-- A worker of a target that may be taken, and its state: an idle one, or else a busy one. Nil: none was found.
local function find_worker(target, held)
  local free = call('ZRANGE', P .. 'idle:' .. target, 0, MOST - 1)
  for _, worker in ipairs(free) do
    if call('HEXISTS', record(worker), 'kept') == 0 then return worker, 'idle' end
  end
  if #free + (recalled_of[target] or 0) >= held then return nil end
  for _, worker in ipairs(call('SRANDMEMBER', P .. 'assigned:' .. function_of(target), MOST)) do
    local is = call('HMGET', record(worker), 'state', 'target', 'drain', 'recalled', 'kept')
    local is_used = (is[1] == 'leased' or is[1] == 'idle') and is[2] == target
    if is_used and not is[3] and not is[4] and not is[5] then return worker, is[1] end
  end
end

-- Targets of a sorted set with a worker that may be taken. `least`: the least number of workers of such a target.
local function show_targets(command, key, least)
  local found, targets = {}, read_pages(command, key)
  for at = 1, #targets, 2 do
    if #found == MOST then break end
    local target, held = targets[at], held_by(targets[at])
    local worker, state
    if held >= least then worker, state = find_worker(target, held) end
    if worker then
      found[#found + 1] = {
        target = target, held = held, recalled = recalled_of[target] or 0, worker = worker, state = state,
        since = tonumber(call('ZSCORE', ASSIGNED_AT, target)),
      }
    end
  end
  return found
end

local workers = call('SCARD', WORKERS)
if workers + LOOK_AT > max_workers then
  show_idle()
  largest = show_targets('ZREVRANGE', HELD, 2)
  longest_without_growth = show_targets('ZRANGE', ASSIGNED_AT, 1)
end

return cjson.encode({
  now = now, workers = workers, draining = call('ZCARD', DRAINING), targets = call('ZCARD', HELD),
  runtimes = runtimes, growing = growing, recalled = recalled, idle = idle, largest = largest,
  longest_without_growth = longest_without_growth,
})
