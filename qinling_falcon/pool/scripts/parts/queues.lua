-- queues: which processes wait for a worker of a target, in order of arrival.
--
-- A queue has one entry for each process (holder): how many of its calls wait, and when the oldest of them arrived. A
-- process gives a worker that it is offered to its own oldest call. There are two kinds of queues: 'any' takes every
-- worker that holds the target, or a warm one; 'warm' takes warm workers only, to load them ahead of calls.
-- include: workers limits

local ENTRIES_OF, WAITING, POLICY, HOLDERS = P .. 'entries:', P .. 'waiting', P .. 'policy', P .. 'holders'
local FORMER = P .. 'former'
local PATIENCE_MS = 5            -- calls wait so long for a worker of their own target alone
local ACCEPT_MS = 1000          -- an offer that its process has not accepted by then passes on
local GRANTS_TTL_MS = 60000     -- a process's list of notifications outlives it for so long
local LOOK_AT = 16              -- so many queues are looked at when a worker or a limit is free for several
local AHEAD_OF_CALLS_MS = 10000 -- queues of kind 'warm' come so much later than calls

local function queue_of(runtime, target, project_id, kind)
  return table.concat({runtime, target, kind, project_id}, '|')
end

-- Runtime, target, project and kind of a queue.
local function parse_queue(queue)
  local runtime, target, kind, project_id = string.match(queue, '^([^|]*)|([^|]*)|([^|]*)|(.*)$')
  return runtime, target, project_id, kind
end

-- Notify a process through its list: {queue, word, …}.
local function notify(holder, ...)
  local grants = P .. 'grants:' .. holder
  call('RPUSH', grants, cjson.encode({...}))
  call('PEXPIRE', grants, GRANTS_TTL_MS)
end

-- When the oldest call of a queue arrived, in ms.
local function oldest(queue)
  return tonumber(call('ZRANGE', P .. 'queue:' .. queue, 0, 0, 'WITHSCORES')[2])
end

-- The reaper looks after a process also when it has not reported yet: Redis was emptied, or it has just begun.
local function watch_holder(holder)
  if not call('ZSCORE', HOLDERS, holder) then call('ZADD', FORMER, 'NX', now, holder) end
end

local function leave_sets(queue, runtime, project_id)
  call('ZREM', P .. 'escalated:' .. runtime, queue)
  call('ZREM', P .. 'blocked:project:' .. project_id, queue)
  call('ZREM', P .. 'blocked:runtime:' .. runtime, queue)
end

-- Says how many calls of a process wait in a queue, and since when the oldest does. 0 removes the entry.
local function set_entry(queue, holder, count, arrival)
  local counts = P .. 'counts:' .. queue
  local before = tonumber(call('HGET', counts, holder)) or 0
  if count > 0 then
    call('HSET', counts, holder, count)
    call('ZADD', P .. 'queue:' .. queue, arrival, holder)
    if before == 0 then
      call('SADD', ENTRIES_OF .. holder, queue)
      watch_holder(holder)
    end
  elseif before > 0 then
    call('HDEL', counts, holder)
    call('ZREM', P .. 'queue:' .. queue, holder)
    call('SREM', ENTRIES_OF .. holder, queue)
  end
  if count == before then return end
  local runtime, target, project_id = parse_queue(queue)
  if count == 0 and call('EXISTS', counts) == 0 then leave_sets(queue, runtime, project_id) end
  call('HINCRBY', WAITING, 'all', count - before)
  call('HINCRBY', WAITING, 'project ' .. project_id, count - before)
  call('HINCRBY', WAITING, 'function ' .. function_of(target), count - before)
end

-- Changes the count of an entry: '+n' or '-n' by so many calls, '=n' to so many.
local function change_entry(queue, holder, change, arrival)
  local number = tonumber(string.sub(change, 2))
  if string.sub(change, 1, 1) ~= '=' then
    number = math.max(0, (tonumber(call('HGET', P .. 'counts:' .. queue, holder)) or 0) + tonumber(change))
  end
  set_entry(queue, holder, number, arrival)
end

-- Where no call is left that has waited for long, the queue wants no further worker for now, unless its target has
-- none. The processes escalate it again if need be.
local function calm(queue)
  local first = oldest(queue)
  if not first or now - first >= PATIENCE_MS then return end
  local runtime, target, _, kind = parse_queue(queue)
  if kind == 'any' and held_by(target) > 0 then call('ZREM', P .. 'escalated:' .. runtime, queue) end
end

-- The order in which queues grow: the oldest arrival, later by twice the cost of a start for each worker that the
-- target has. Queues of calls come before those of kind 'warm'.
local function rank(queue, target, kind)
  local start_ms = tonumber(call('HGET', POLICY, 'start_ms')) or 100
  return oldest(queue) + 2 * start_ms * held_by(target) + (kind == 'warm' and AHEAD_OF_CALLS_MS or 0)
end

-- From now on the queue counts as wanting one more worker for its target, and no limit holds it back.
local function escalate(queue)
  local runtime, target, project_id, kind = parse_queue(queue)
  call('ZREM', P .. 'blocked:project:' .. project_id, queue)
  call('ZREM', P .. 'blocked:runtime:' .. runtime, queue)
  call('ZADD', P .. 'escalated:' .. runtime, rank(queue, target, kind), queue)
  wake()
end

-- The number of the target's workers has changed, and with it the queue's place among those that grow.
local function rank_anew(runtime, target, project_id)
  local queue = queue_of(runtime, target, project_id, 'any')
  if call('ZSCORE', P .. 'escalated:' .. runtime, queue) then
    call('ZADD', P .. 'escalated:' .. runtime, rank(queue, target, 'any'), queue)
  end
end

-- A limit holds the queue back: it is looked at when a lease of its project or runtime ends, and wants no worker.
local function block(queue, runtime, project_id)
  call('ZREM', P .. 'escalated:' .. runtime, queue)
  local arrival = oldest(queue)
  call('ZADD', P .. 'blocked:project:' .. project_id, arrival, queue)
  call('ZADD', P .. 'blocked:runtime:' .. runtime, arrival, queue)
end

-- The target has lost its last worker, so nothing will be released to its queue: the processes ask again.
local function ask_again(runtime, target, project_id)
  local queue = queue_of(runtime, target, project_id, 'any')
  for _, holder in ipairs(call('ZRANGE', P .. 'queue:' .. queue, 0, -1)) do
    set_entry(queue, holder, 0, now)
    notify(holder, queue, 'again')
  end
end
