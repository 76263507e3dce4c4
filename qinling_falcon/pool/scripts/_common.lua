-- Shared by all scripts: stands before each of them when it is loaded.
--
-- KEYS[1]  qf:{pool}, the anchor: all keys below begin with it, so all are on one node of a cluster.
-- ARGV[1]  now in ms, in tests only; empty: the server's own time.
-- ARGV[2]  limit of leases per function      ARGV[3]  limit of leases per project      ARGV[4]  max_workers
--          (scripts that never grant or make room are given ARGV[1] alone)
--
-- What holds after every script:
--   a worker is in exactly one state, and in the sets of that state only; counts are the sizes of sets;
--   a waiter whose function and project are below their limits never stands beside a worker that fits it.

local P = KEYS[1] .. ':'
local RUNTIMES, WORKERS, IDLE, LEASES = P .. 'runtimes', P .. 'workers', P .. 'idle', P .. 'leases'
local DRAINING, EXECUTIONS, LOST, WAKEUPS = P .. 'draining', P .. 'executions', P .. 'lost', P .. 'wakeups'
local LINES, WAITERS, HOLDERS, REPORTED = P .. 'lines', P .. 'waiters', P .. 'holders', P .. 'reported'
local GENERATIONS, REAPER, SERVER = P .. 'generations', P .. 'reaper', P .. 'server'
local BARE = P .. 'bare'

local ACCEPT_MS = 1000          -- a grant that its waiter has not accepted by then passes on
local GRANTS_TTL_MS = 60000     -- a process's list of grants outlives it for so long
local CHANGING_MS = 60000       -- a change that was never ended stops standing in the way

local call = redis.call
local FUNCTION_LIMIT, PROJECT_LIMIT, MAX_WORKERS = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Numbers as text without an exponent (tostring gives 1.7e+12).
local function text(number)
  return string.format('%.0f', number)
end

-- Generations --------------------------------------------------------------------------------------------------

-- A stored generation as callers see it: the value, 'changing <owner> <salt>' under a mark, or nil when it is missing
-- or the mark stands no longer.
local function generation(stored)
  if not stored then return nil end
  local till, mark = string.match(stored, '^changing (%d+) (.*)$')
  if till then return tonumber(till) > now and 'changing ' .. mark or nil end
  return stored
end

-- Whether all pairs of (what, generation) in list[first..] are those of now.
local function current(list, first)
  if first > #list then return true end
  local whats = {}
  for at = first, #list, 2 do whats[#whats + 1] = list[at] end
  local stored = call('HMGET', GENERATIONS, unpack(whats))
  for at = 1, #whats do
    if generation(stored[at]) ~= list[first + at * 2 - 1] then return false end
  end
  return true
end

-- Workers ------------------------------------------------------------------------------------------------------

-- Wake the pool manager; one note in the list is enough.
local function wake()
  if call('LLEN', WAKEUPS) == 0 then call('RPUSH', WAKEUPS, '1') end
end

local function permitted(function_id, project_id)
  return call('SCARD', P .. 'running:function:' .. function_id) < FUNCTION_LIMIT
    and call('SCARD', P .. 'running:project:' .. project_id) < PROJECT_LIMIT
end

-- Each put_* places a worker that is in no state's sets; each take_* takes it out of them.

local function put_draining(worker, runtime)
  call('HSET', P .. 'worker:' .. worker, 'state', 'draining')
  call('SREM', P .. 'live:' .. runtime, worker)
  call('ZADD', DRAINING, now, worker)
  wake()
end

local function put_warm(worker, runtime)
  if call('HEXISTS', RUNTIMES, runtime) == 0 then return put_draining(worker, runtime) end
  call('HSET', P .. 'worker:' .. worker, 'state', 'warm')
  call('ZADD', P .. 'warm:' .. runtime, now, worker)
end

local function put_idle(worker, runtime, target)
  if call('HEXISTS', RUNTIMES, runtime) == 0 then return put_draining(worker, runtime) end
  call('HSET', P .. 'worker:' .. worker, 'state', 'idle')
  call('ZADD', IDLE, now, worker)
  call('ZADD', P .. 'idle:' .. target, now, worker)
end

local function take_warm(worker, runtime)
  call('ZREM', P .. 'warm:' .. runtime, worker)
end

local function take_idle(worker, target)
  call('ZREM', IDLE, worker)
  call('ZREM', P .. 'idle:' .. target, worker)
end

-- A free worker gets no further call; one that is leased ends after its call.
local function doom(worker)
  local key = P .. 'worker:' .. worker
  local is = call('HMGET', key, 'state', 'runtime', 'target')
  if is[1] == 'idle' then
    take_idle(worker, is[3])
    put_draining(worker, is[2])
  elseif is[1] == 'warm' then
    take_warm(worker, is[2])
    put_draining(worker, is[2])
  elseif is[1] == 'leased' then
    call('HSET', key, 'doomed', '1')
  end
end

-- The workers that hold a target which begins so, and can get another call: idle ones, least recently used first, then
-- leased ones.
local function holding(beginning)
  local found = {}
  for _, set in ipairs({IDLE, LEASES}) do
    for _, worker in ipairs(call('ZRANGE', set, 0, -1)) do
      local is = call('HMGET', P .. 'worker:' .. worker, 'target', 'doomed')
      if string.sub(is[1], 1, #beginning) == beginning and not is[2] then found[#found + 1] = worker end
    end
  end
  return found
end

-- Leases -------------------------------------------------------------------------------------------------------

-- An idle worker of the target, the most recently used first (the rest can age), unless only a fresh one will do;
-- else, unless only a loaded one will do, a warm one of the runtime. Returns the worker and whether it is fresh: holds
-- no function yet.
local function fitting(runtime, target, only_fresh, only_loaded)
  local worker = not only_fresh and call('ZREVRANGE', P .. 'idle:' .. target, 0, 0)[1]
  if worker or only_loaded then return worker, false end
  return call('ZRANGE', P .. 'warm:' .. runtime, 0, 0)[1], true
end

-- Leases a free worker (from `fitting`) to a call: {runtime, target, function_id, project_id, holder, execution,
-- run_ms, detail}; without a detail it has no execution that could be found or lost. A lease that is not accepted yet
-- has a short deadline. Returns address, secret, token.
local function begin_lease(worker, fresh, wanted, accepted)
  local key = P .. 'worker:' .. worker
  local is = call('HMGET', key, 'address', 'secret', 'token')
  local token = math.max((tonumber(is[3]) or 0) + 1, now)
  if fresh then
    take_warm(worker, wanted.runtime)
    -- The stock is refilled by the manager's next pass: a start at once would take its CPU from this very call.
    if call('ZCARD', P .. 'warm:' .. wanted.runtime) == 0 then wake() end
  else
    take_idle(worker, wanted.target)
  end
  call('HSET', key, 'state', 'leased', 'token', text(token), 'target', wanted.target, 'function', wanted.function_id,
    'project', wanted.project_id, 'holder', wanted.holder, 'execution', wanted.execution, 'run_ms', wanted.run_ms,
    'detail', wanted.detail, 'granted', text(now), 'accepted', accepted and '1' or '0', 'fresh', fresh and '1' or '0')
  call('ZADD', LEASES, now + (accepted and tonumber(wanted.run_ms) or ACCEPT_MS), worker)
  call('SADD', P .. 'running:function:' .. wanted.function_id, worker)
  call('SADD', P .. 'running:project:' .. wanted.project_id, worker)
  if wanted.detail ~= '' then call('HSET', EXECUTIONS, wanted.execution, worker) end
  return is[1], is[2], text(token)
end

-- Ends the lease of a leased worker, which is in no state's sets then. Returns runtime, target, doomed, fresh.
local function end_lease(worker)
  local key = P .. 'worker:' .. worker
  local is = call('HMGET', key, 'runtime', 'target', 'function', 'project', 'execution', 'doomed', 'fresh')
  call('ZREM', LEASES, worker)
  call('SREM', P .. 'running:function:' .. is[3], worker)
  call('SREM', P .. 'running:project:' .. is[4], worker)
  if call('HGET', EXECUTIONS, is[5]) == worker then call('HDEL', EXECUTIONS, is[5]) end
  call('HDEL', key, 'detail', 'holder', 'project', 'execution', 'run_ms', 'granted', 'accepted', 'fresh', 'doomed')
  return is[1], is[2], is[6], is[7] == '1'
end

-- Takes back a lease that was never used: a worker that was only assigned has loaded nothing, so it is warm again.
local function return_unused(worker)
  local runtime, target, doomed, fresh = end_lease(worker)
  if fresh then call('HDEL', P .. 'worker:' .. worker, 'target', 'function') end
  if doomed then
    put_draining(worker, runtime)
  elseif fresh then
    put_warm(worker, runtime)
  else
    put_idle(worker, runtime, target)
  end
end

-- Ends a lease whose holder will not release it. The worker's state is unknown: it drains. What the execution's
-- record needs is in `lost` until the manager says that it is recorded.
local function lose(worker)
  local is = call('HMGET', P .. 'worker:' .. worker, 'execution', 'detail')
  local runtime = end_lease(worker)
  put_draining(worker, runtime)
  if is[2] ~= '' then call('HSET', LOST, is[1], is[2]) end
end

-- Waiters ------------------------------------------------------------------------------------------------------
-- A line is the queue of all waiters of one runtime, target, function and project that want any worker, or only a fresh
-- one: they are permitted or not, and served by the same workers, together. `lines` orders the lines by their first
-- waiter.

local function line_of(wanted)
  local kind = wanted.only_fresh and 'fresh' or 'any'
  return table.concat({wanted.runtime, wanted.target, wanted.function_id, kind, wanted.project_id}, '|')
end

local function parts(line)
  local runtime, target, function_id, kind, project_id = string.match(line, '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|(.*)$')
  return runtime, target, function_id, project_id, kind == 'fresh'
end

-- Tell a waiter something through its process's list: {waiter, word, …}. A waiter's name begins with its holder's.
local function tell(waiter, ...)
  local grants = P .. 'grants:' .. string.match(waiter, '^(.*)/')
  call('RPUSH', grants, cjson.encode({waiter, ...}))
  call('PEXPIRE', grants, GRANTS_TTL_MS)
end

local function enqueue(waiter, wanted, wait_ms, generations)
  local line, turn = line_of(wanted), call('INCR', P .. 'turn')
  call('HSET', P .. 'waiter:' .. waiter, 'line', line, 'holder', wanted.holder, 'execution', wanted.execution,
    'run_ms', wanted.run_ms, 'detail', wanted.detail, 'since', text(now), 'generations', cjson.encode(generations))
  call('ZADD', WAITERS, now + wait_ms, waiter)
  call('SADD', P .. 'waiting:function:' .. wanted.function_id, waiter)
  call('SADD', P .. 'waiting:project:' .. wanted.project_id, waiter)
  call('ZADD', P .. 'line:' .. line, turn, waiter)
  call('ZADD', LINES, 'NX', turn, line)
end

local function remove_waiter(waiter, line)
  local _, _, function_id, project_id = parts(line)
  call('ZREM', WAITERS, waiter)
  call('SREM', P .. 'waiting:function:' .. function_id, waiter)
  call('SREM', P .. 'waiting:project:' .. project_id, waiter)
  call('DEL', P .. 'waiter:' .. waiter)
  call('ZREM', P .. 'line:' .. line, waiter)
  local first = call('ZRANGE', P .. 'line:' .. line, 0, 0, 'WITHSCORES')
  if first[2] then call('ZADD', LINES, first[2], line) else call('ZREM', LINES, line) end
end

-- Offer a worker to the first waiter of a line: a grant, which it must accept; or the news that its target is stale
-- or its time is over, and the worker stays free.
local function offer(line, worker, fresh)
  local waiter = call('ZRANGE', P .. 'line:' .. line, 0, 0)[1]
  local is = call('HMGET', P .. 'waiter:' .. waiter, 'holder', 'execution', 'run_ms', 'detail', 'since', 'generations')
  local till = tonumber(call('ZSCORE', WAITERS, waiter))
  remove_waiter(waiter, line)
  if till <= now then return tell(waiter, 'late') end
  if not current(cjson.decode(is[6]), 1) then return tell(waiter, 'stale') end
  local runtime, target, function_id, project_id = parts(line)
  local cold = 'none'
  if fresh then
    local ready = tonumber(call('HGET', P .. 'worker:' .. worker, 'ready'))
    cold = ready >= tonumber(is[5]) and 'start' or 'assign'
  end
  local address, secret, token = begin_lease(worker, fresh, {
    runtime = runtime, target = target, function_id = function_id, project_id = project_id,
    holder = is[1], execution = is[2], run_ms = is[3], detail = is[4],
  }, false)
  tell(waiter, 'lease', worker, address, secret, token, cold, fresh and '1' or '0')
end

-- Give free workers to permitted waiters, first come, first served.
local function serve()
  local served = true
  while served do
    served = false
    for _, line in ipairs(call('ZRANGE', LINES, 0, -1)) do
      local runtime, target, function_id, project_id, only_fresh = parts(line)
      if permitted(function_id, project_id) then
        local worker, fresh = fitting(runtime, target, only_fresh)
        if worker then
          offer(line, worker, fresh)
          served = true
          break
        end
      end
    end
  end
end

-- How many waiters of each configured runtime could run if they had a worker: {runtime = n}, and the runtimes in
-- the order of their first waiter; how many of all these take only a fresh one, and {target = true} for their targets.
local function demand()
  local wanted, order, free, fresh, growing = {}, {}, {}, 0, {}
  for _, line in ipairs(call('ZRANGE', LINES, 0, -1)) do
    local runtime, target, function_id, project_id, only_fresh = parts(line)
    if call('HEXISTS', RUNTIMES, runtime) == 1 then
      local f, p = P .. 'running:function:' .. function_id, P .. 'running:project:' .. project_id
      free[f] = free[f] or FUNCTION_LIMIT - call('SCARD', f)
      free[p] = free[p] or PROJECT_LIMIT - call('SCARD', p)
      local count = math.min(call('ZCARD', P .. 'line:' .. line), free[f], free[p])
      if count > 0 then
        free[f], free[p] = free[f] - count, free[p] - count
        if not wanted[runtime] then order[#order + 1] = runtime end
        wanted[runtime] = (wanted[runtime] or 0) + count
        if only_fresh then
          fresh = fresh + count
          growing[target] = true
        end
      end
    end
  end
  return wanted, order, fresh, growing
end

-- The free worker that can best be spared: the least recently used idle one (of no target that is kept), else the
-- oldest warm one of the runtime that has most of them and no waiter that wants one.
local function spare(wanted, kept)
  local keeps = next(kept) ~= nil
  for _, idle in ipairs(call('ZRANGE', IDLE, 0, keeps and -1 or 0)) do
    if not keeps or not kept[call('HGET', P .. 'worker:' .. idle, 'target')] then return idle end
  end
  local runtimes, most, worker = call('HKEYS', RUNTIMES), 0, nil
  table.sort(runtimes)
  for _, runtime in ipairs(runtimes) do
    local count = wanted[runtime] and 0 or call('ZCARD', P .. 'warm:' .. runtime)
    if count > most then
      most, worker = count, call('ZRANGE', P .. 'warm:' .. runtime, 0, 0)[1]
    end
  end
  return worker
end

-- Waiters that no starting worker will serve want one more each: wake the manager to start it, and where there are
-- max_workers already, drain workers of others to make room.
local function make_room()
  local wanted, order, fresh, growing = demand()
  local unserved = 0
  for _, runtime in ipairs(order) do
    unserved = unserved + math.max(0, wanted[runtime] - call('ZCARD', P .. 'starting:' .. runtime))
  end
  local free = MAX_WORKERS - call('SCARD', WORKERS)
  if unserved > 0 and free > 0 then wake() end
  local missing = unserved - free - call('ZCARD', DRAINING)
  while missing > 0 do
    -- Nothing is won when a target that is to get more workers loses one for that; ordinary calls come first.
    local worker = spare(wanted, missing <= fresh and growing or {})
    if not worker then return end
    doom(worker)
    missing = missing - 1
  end
end

-- Stands at the end of every script that frees a worker or a limit.
local function settle_queue()
  if call('EXISTS', LINES) == 0 then return end
  serve()
  if call('EXISTS', LINES) == 1 then make_room() end
end

