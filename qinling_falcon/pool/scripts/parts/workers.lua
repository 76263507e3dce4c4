-- workers: the states of workers, and the sets of each state.
--
-- A worker is in exactly one state (starting, warm, idle, leased, draining) and in the sets of that state only.

local RUNTIMES, WORKERS, DRAINING, BARE = P .. 'runtimes', P .. 'workers', P .. 'draining', P .. 'bare'
local IDLE, LEASES, HELD, ASSIGNED_AT, BUSY = P .. 'idle', P .. 'leases', P .. 'held', P .. 'assigned_at', P .. 'busy'
local RECALLS = P .. 'recalls'

local function record(worker)
  return P .. 'worker:' .. worker
end

-- The function of a target: `function:version:digest:…`.
local function function_of(target)
  return string.match(target, '^[^:]*')
end

-- The number of workers that a target has.
local function held_by(target)
  return tonumber(call('ZSCORE', HELD, target)) or 0
end

-- Assigns a warm worker to a target.
local function assign(worker, target)
  call('ZINCRBY', HELD, 1, target)
  call('ZADD', ASSIGNED_AT, now, target)
  call('SADD', P .. 'assigned:' .. function_of(target), worker)
end

-- Ends the assignment of a worker, which drains or is warm again. Returns whether it was the target's last worker.
local function unassign(worker, target)
  call('SREM', P .. 'assigned:' .. function_of(target), worker)
  if tonumber(call('ZINCRBY', HELD, -1, target)) > 0 then return false end
  call('ZREM', HELD, target)
  call('ZREM', ASSIGNED_AT, target)
  call('HDEL', BUSY, target)
  return true
end

-- Ends the recall of a worker, if there is one: it has expired, was taken back, or is carried out.
local function end_recall(worker)
  if call('ZREM', RECALLS, worker) == 1 then call('HDEL', record(worker), 'recalled') end
end

local function put_draining(worker, runtime)
  end_recall(worker)
  call('HSET', record(worker), 'state', 'draining')
  call('SREM', P .. 'live:' .. runtime, worker)
  call('ZADD', DRAINING, now, worker)
  wake()
end

local function put_warm(worker, runtime)
  if call('HEXISTS', RUNTIMES, runtime) == 0 then return put_draining(worker, runtime) end
  end_recall(worker)
  call('HSET', record(worker), 'state', 'warm')
  call('ZADD', P .. 'warm:' .. runtime, now, worker)
end

-- A worker that is kept for `min_warm` is not in the set of those that can be evicted.
local function put_idle(worker, target, kept)
  call('HSET', record(worker), 'state', 'idle')
  call('ZADD', P .. 'idle:' .. target, now, worker)
  if not kept then call('ZADD', IDLE, now, worker) end
end

local function take_warm(worker, runtime)
  call('ZREM', P .. 'warm:' .. runtime, worker)
end

local function take_idle(worker, target)
  call('ZREM', IDLE, worker)
  call('ZREM', P .. 'idle:' .. target, worker)
end

-- Takes the most recently used idle worker of a target, so that the others can become old enough to end. Nil: there is
-- none.
local function take_latest_idle(target)
  local worker = call('ZPOPMAX', P .. 'idle:' .. target)[1]
  if worker then call('ZREM', IDLE, worker) end
  return worker
end
