-- queues: which processes wait for a worker of a target, in order of arrival.
--
-- A queue has one entry for each process (holder): how many of its calls wait, and when the oldest of them arrived. A
-- process gives an offered worker to its oldest call. There are two kinds of queues: 'any' accepts workers that hold
-- the target, and warm ones; 'warm' accepts only warm workers, to load them ahead of calls.
-- include: workers limits

local ENTRIES_OF, WAITING, POLICY, HOLDERS = P .. 'entries:', P .. 'waiting', P .. 'policy', P .. 'holders'
local FORMER = P .. 'former'
local PATIENCE_MS = 5            -- how long calls wait for a worker of their own target before they want one more
local ACCEPT_MS = 1000           -- how long a process may take to accept an offer
local GRANTS_TTL_MS = 60000      -- when the list of notifications of a dead process expires
local LOOK_AT = 16               -- how many queues are looked at, at most, when a worker or a lease is free for several
local LONG_WAIT_STARTS = 5       -- these three as _LONG_STARTS, _LONG_PATIENCE_S, _LONGEST_PATIENCE_S in local_queue.py
local SHORTEST_LONG_WAIT_MS = 100
local LONG_WAIT_MS = 1000
local RESERVATION_STARTS = 10    -- a lease is reserved for so many starts, but at least for the next value
local SHORTEST_RESERVATION_MS = 1000
local CROWD_MS = 2500            -- how long a call may wait longer because many calls wait in other queues
local AHEAD_OF_CALLS_MS = 10000  -- how much later than queues of calls those of kind 'warm' are served

local function queue_of(runtime, target, project_id, kind)
  return table.concat({runtime, target, kind, project_id}, '|')
end

-- The cost of a start, in ms.
local function read_start_ms()
  return tonumber(call('HGET', POLICY, 'start_ms')) or 100
end

-- Runtime, target, project and kind of a queue.
local function parse_queue(queue)
  local runtime, target, kind, project_id = string.match(queue, '^([^|]*)|([^|]*)|([^|]*)|(.*)$')
  return runtime, target, project_id, kind
end

-- Notifies a process through its list: {queue, 'lease' or 'again', …}.
local function notify(holder, ...)
  local grants = P .. 'grants:' .. holder
  call('RPUSH', grants, cjson.encode({...}))
  call('PEXPIRE', grants, GRANTS_TTL_MS)
end

-- When the oldest call of a queue arrived, in ms.
local function oldest(queue)
  return tonumber(call('ZRANGE', P .. 'queue:' .. queue, 0, 0, 'WITHSCORES')[2])
end

-- Makes the reaper watch a process that has not reported yet, because Redis was emptied or the process is new.
local function watch_holder(holder)
  if not call('ZSCORE', HOLDERS, holder) then call('ZADD', FORMER, 'NX', now, holder) end
end

-- Removes a queue without calls from the sets of queues, and ends its reservations.
local function leave_sets(queue, runtime, target, project_id)
  local found = call('ZREM', P .. 'escalated:' .. runtime, queue)
    + call('ZREM', P .. 'blocked:project:' .. project_id, queue)
    + call('ZREM', P .. 'blocked:runtime:' .. runtime, queue)
  if found > 0 then end_reservations(target, project_id, runtime) end
end

-- The rank of a queue among those that want one more worker: the oldest arrival, and two changes of it in multiples of
-- the cost of a start. It is later by 2 starts for each worker that the target has. For each waiting call after the
-- first, it is earlier by 50 starts, divided by the number of workers that the target has plus one, but by CROWD_MS at
-- most. So a queue that grows quickly gets more workers before most of the calls wait in it.
local function rank(queue, target, kind)
  if kind == 'warm' then return oldest(queue) + AHEAD_OF_CALLS_MS end
  local start_ms = read_start_ms()
  local held, waiting = held_by(target), 0
  for _, count in ipairs(call('HVALS', P .. 'counts:' .. queue)) do waiting = waiting + count end
  local crowd_ms = math.min(50 * start_ms * (waiting - 1) / (held + 1), CROWD_MS)
  return oldest(queue) + 2 * start_ms * held - crowd_ms
end

-- Updates the rank of a queue, if it is escalated: its oldest call, the number of its calls or the number of its
-- target's workers has changed.
local function update_rank(queue, runtime, target, kind)
  if call('ZSCORE', P .. 'escalated:' .. runtime, queue) then
    call('ZADD', P .. 'escalated:' .. runtime, rank(queue, target, kind), queue)
  end
end

-- Sets the entry of a process in a queue: how many calls wait, and when the oldest arrived. 0 removes the entry.
local function set_entry(queue, holder, count, arrival)
  local counts = P .. 'counts:' .. queue
  local before = tonumber(call('HGET', counts, holder)) or 0
  local is_other_arrival = false
  if count > 0 then
    if count ~= before then call('HSET', counts, holder, count) end
    is_other_arrival = call('ZADD', P .. 'queue:' .. queue, 'CH', arrival, holder) == 1
    if before == 0 then
      call('SADD', ENTRIES_OF .. holder, queue)
      watch_holder(holder)
    end
  elseif before > 0 then
    call('HDEL', counts, holder)
    call('ZREM', P .. 'queue:' .. queue, holder)
    call('SREM', ENTRIES_OF .. holder, queue)
  end
  if count == before and not is_other_arrival then return end
  local runtime, target, project_id, kind = parse_queue(queue)
  if count == 0 and call('EXISTS', counts) == 0 then
    leave_sets(queue, runtime, target, project_id)
  else
    update_rank(queue, runtime, target, kind)
  end
  if count == before or is_asynchronous(holder) then return end
  call('HINCRBY', WAITING, 'all', count - before)
  call('HINCRBY', WAITING, 'project ' .. project_id, count - before)
  call('HINCRBY', WAITING, 'function ' .. function_of(target), count - before)
end

-- Changes the count of an entry: '+n' and '-n' change it by n calls, '=n' sets it to n.
local function change_entry(queue, holder, change, arrival)
  local number = tonumber(string.sub(change, 2))
  if string.sub(change, 1, 1) ~= '=' then
    number = math.max(0, (tonumber(call('HGET', P .. 'counts:' .. queue, holder)) or 0) + tonumber(change))
  end
  set_entry(queue, holder, number, arrival)
end

-- Ends the escalation of a queue in which no call has waited for long, unless its target has no worker. The processes
-- escalate it again if necessary.
local function deescalate(queue)
  local first = oldest(queue)
  if not first or now - first >= PATIENCE_MS then return end
  local runtime, target, project_id, kind = parse_queue(queue)
  if kind == 'any' and held_by(target) > 0 and call('ZREM', P .. 'escalated:' .. runtime, queue) == 1 then
    end_reservations(target, project_id, runtime)
  end
end

-- Escalates a queue: it wants one more worker for its target, and no limit blocks it.
local function escalate(queue)
  local runtime, target, project_id, kind = parse_queue(queue)
  call('ZREM', P .. 'blocked:project:' .. project_id, queue)
  call('ZREM', P .. 'blocked:runtime:' .. runtime, queue)
  call('ZADD', P .. 'escalated:' .. runtime, rank(queue, target, kind), queue)
  wake()
end

-- Blocks a queue that has reached a limit. It wants no worker until a lease of its project or runtime ends. Blocked
-- queues are served in the order of `place`, which is when their oldest call arrived, if it is not given. A queue that
-- was passed over (see `pass_over`) keeps its place.
local function block(queue, runtime, project_id, place)
  call('ZREM', P .. 'escalated:' .. runtime, queue)
  for _, set in ipairs({P .. 'blocked:project:' .. project_id, P .. 'blocked:runtime:' .. runtime}) do
    if place then
      call('ZADD', set, place, queue)
    else
      call('ZADD', set, 'GT', oldest(queue), queue)
    end
  end
end

-- Blocks a queue that has no worker. Its place is behind all queues that were not passed over yet, and behind calls
-- that arrive within `long_ms` after its oldest call, which came at `arrival`.
local function pass_over(queue, arrival, runtime, project_id, long_ms)
  block(queue, runtime, project_id, math.max(arrival + long_ms, now))
end

-- Makes the calls of a queue ask again. Their target has lost its last worker, so no release would reach the queue.
local function ask_again(runtime, target, project_id)
  local queue = queue_of(runtime, target, project_id, 'any')
  for _, holder in ipairs(call('ZRANGE', P .. 'queue:' .. queue, 0, -1)) do
    set_entry(queue, holder, 0, now)
    notify(holder, queue, 'again')
  end
end
