-- reap: ends lost leases, dead processes and unused workers, in bounded pages. The next pass goes on where this one
--       stopped.
-- ARGV    2 holder_ttl_ms  3 worker_idle_ms  4 what the caller's last pass returned, '' if there was none  5 the time
--         since then in ms, by a clock that never steps  6… pairs of (runtime, how many warm workers it keeps at the
--         moment)
-- reads   holders, former, reported, held:<holder>, leases, idle, warm:<runtime>, runtimes, policy
-- writes  reaper, lost, journal:<holder>, entries:<holder>, former, bare; concurrency (wrong counts, counts of 0) and
--         waiting (counts of 0); for workers that are drained or offered what drain and release write; after a step of
--         the clock also leases, worker:<id>, recalls, assigned_at and the sets that it reads
-- returns now
-- promises  A lease is lost when its deadline has passed, when its holder is dead, or when its holder lives and does
--           not know it (because the reply was lost). Its worker drains, and its execution is put into `lost`, once.
--           An offer that was not accepted in time goes to the next process. The journal of a dead holder is moved to
--           `lost`, and its entries are removed. Workers that were idle for too long, and surplus warm ones, drain.
--           If no reaper has run for long (Redis was down), holders get time to report first. If the server's clock
--           has stepped, no lease ends at once, or stands much longer than it should. Recalls are then taken back.
--           Wrong counts of leases are right after a manager's first pass, and after a minute.

local PAGE = 100
local UNKNOWN_AFTER_MS = 2000
local STEP_MS = 2000  -- a larger difference between the two clocks is a step; a smaller one may be a delay
local RECOUNT_MS = 60000
local REAPER, REPORTED = P .. 'reaper', P .. 'reported'
local ttl, idle = tonumber(ARGV[2]), tonumber(ARGV[3])

local was = call('HMGET', REAPER, 'last', 'since', 'lease', 'count', 'counted')
local last, since = tonumber(was[1]), tonumber(was[2])

-- 0. A step of the server's clock. Forward: times move by the step, but not what was written after the step. Back: no
-- time is later than now.
local passed = was[1] == ARGV[4] and tonumber(ARGV[5])
local step = passed and now - last - passed or 0
local is_forward, is_back = step > STEP_MS, not last or last > now
if is_forward or is_back then
  local function moved(time)
    if is_forward and time < now - passed - STEP_MS / 2 then return time + step end
    return math.min(time, now)
  end
  local sets = {IDLE, ASSIGNED_AT, HOLDERS, FORMER, REPORTED}
  for _, runtime in ipairs(call('HKEYS', RUNTIMES)) do sets[#sets + 1] = P .. 'warm:' .. runtime end
  for _, set in ipairs(sets) do
    local members = call('ZRANGE', set, 0, -1, 'WITHSCORES')
    for at = 1, #members, 2 do call('ZADD', set, moved(tonumber(members[at + 1])), members[at]) end
  end
  for _, worker in ipairs(call('ZRANGE', LEASES, 0, -1)) do
    local granted = tonumber(call('HGET', record(worker), 'granted'))
    call('HSET', record(worker), 'granted', text(moved(granted)))
    call('ZINCRBY', LEASES, moved(granted) - granted, worker)
  end
  for _, worker in ipairs(call('ZRANGE', RECALLS, 0, -1)) do end_recall(worker) end
  for _, holder in ipairs(is_back and call('ZRANGE', HOLDERS, 0, -1) or {}) do
    for _, queue in ipairs(call('SMEMBERS', ENTRIES_OF .. holder)) do
      if tonumber(call('ZSCORE', P .. 'queue:' .. queue, holder)) > now then
        set_entry(queue, holder, tonumber(call('HGET', P .. 'counts:' .. queue, holder)), now)
      end
    end
  end
  if is_forward then last, since = last + step, since + step end
end

if not last or last > now or now - last > ttl / 2 then since = now end

-- The counts of leases, in a manager's first pass and sometimes afterwards. It reads all leases.
local counted = tonumber(was[5])
if was[1] ~= ARGV[4] or not counted or math.abs(now - counted) > RECOUNT_MS then
  recount()
  counted = now
end

local dead, alive = {}, {}
for _, set in ipairs({HOLDERS, FORMER}) do
  local holders = call('ZRANGE', set, 0, -1, 'WITHSCORES')
  for at = 1, #holders, 2 do
    local is_dead = math.max(tonumber(holders[at + 1]), since) + ttl < now
    if is_dead then dead[holders[at]] = true else alive[holders[at]] = true end
  end
end

-- 1. Leases past their deadline.
for _, worker in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, PAGE)) do
  local is = call('HMGET', record(worker), 'accepted', 'holder', 'runtime', 'target', 'project')
  if is[1] == '0' then
    note('offer_expired', 'its process has not accepted it in time', {
      worker = worker, runtime = is[3], target = is[4], holder = is[2],
    })
    -- The process does not read its notifications, or one was lost. Its entry would get the next worker, too.
    for _, kind in ipairs({'any', 'warm'}) do
      local queue = queue_of(is[3], is[4], is[5], kind)
      if call('HEXISTS', P .. 'counts:' .. queue, is[2]) == 1 then
        set_entry(queue, is[2], 0, now)
        notify(is[2], queue, 'again')
      end
    end
    return_unused(worker)
  else
    lose(worker, 'its deadline has passed')
  end
end

-- 2. A page of the others: leases of dead holders, and those that their holder does not know.
local first = tonumber(was[3]) or 0
local page = call('ZRANGE', LEASES, first, first + PAGE - 1)
for _, worker in ipairs(page) do
  local is = call('HMGET', record(worker), 'holder', 'token', 'accepted', 'granted')
  local holder, granted = is[1], tonumber(is[4])
  local is_dead = dead[holder] or not alive[holder] and math.max(granted, since) + ttl < now
  watch_holder(holder)
  if is[3] == '0' then
    if is_dead then return_unused(worker) end
  else
    local reported = tonumber(call('ZSCORE', REPORTED, holder) or 0)
    local is_unknown = granted < reported and now - granted > UNKNOWN_AFTER_MS
      and call('SISMEMBER', P .. 'held:' .. holder, worker .. ':' .. is[2]) == 0
    if is_dead then lose(worker, 'its process is silent') end
    if is_unknown and not is_dead then lose(worker, 'its process does not know it') end
  end
end
local next_lease = #page == PAGE and first + PAGE or 0

-- 3. Dead holders: a page of the journal and of the entries of each.
for holder in pairs(dead) do
  for _, queue in ipairs(call('SPOP', ENTRIES_OF .. holder, PAGE)) do set_entry(queue, holder, 0, now) end
  for _, execution in ipairs(call('HRANDFIELD', journal_of(holder), PAGE)) do
    local _, worker, token = read_journal(holder, execution)
    local is = worker and call('HMGET', record(worker), 'state', 'token') or {}
    if is[1] == 'leased' and is[2] == token then
      -- The worker ends now. If the silent process came back and released the lease, the worker would live on, and
      -- the execution would wait in `lost` for its end.
      lose(worker, 'its process is silent')
    else
      note('lost', 'its process is silent', {holder = holder, execution = execution})
      lose_execution(holder, execution)
    end
  end
  if call('EXISTS', journal_of(holder), ENTRIES_OF .. holder) == 0 then
    for _, set in ipairs({HOLDERS, FORMER, REPORTED}) do call('ZREM', set, holder) end
    call('DEL', P .. 'held:' .. holder, P .. 'grants:' .. holder)
  else
    wake()
  end
end

-- 4. Workers that were unused for too long.
for _, worker in ipairs(call('ZRANGEBYSCORE', IDLE, '-inf', now - idle, 'LIMIT', 0, PAGE)) do
  drain(worker, 'ended', 'unused for longer than WORKER_IDLE_S')
end
local runtimes, stocks = call('HGETALL', RUNTIMES), {}
for at = 6, #ARGV, 2 do stocks[ARGV[at]] = tonumber(ARGV[at + 1]) end
for at = 1, #runtimes, 2 do
  local warm = P .. 'warm:' .. runtimes[at]
  local surplus = math.min(PAGE, call('ZCARD', warm) - (stocks[runtimes[at]] or runtimes[at + 1]))
  if surplus > 0 then
    for _, worker in ipairs(call('ZRANGEBYSCORE', warm, '-inf', now - idle, 'LIMIT', 0, surplus)) do
      drain(worker, 'ended', 'surplus warm worker, unused for longer than WORKER_IDLE_S')
    end
  end
end

-- 5. Counts of 0, a page at a time. A version's own limit stays while calls of the version run or calls of its function
-- wait.
local counts = call('HSCAN', CONCURRENCY, was[4] or '0', 'COUNT', PAGE)
for at = 1, #counts[2], 2 do
  local field = counts[2][at]
  local version = string.match(field, '^own (.*)$')
  local is_unused = counts[2][at + 1] == '0' and not string.match(field, '^limit ')
  if version then
    is_unused = (call('HGET', CONCURRENCY, 'version ' .. version) or '0') == '0'
      and (call('HGET', WAITING, 'function ' .. function_of(version)) or '0') == '0'
  end
  if is_unused then call('HDEL', CONCURRENCY, field) end
end
for _, field in ipairs(call('HRANDFIELD', WAITING, PAGE)) do
  if call('HGET', WAITING, field) == '0' then call('HDEL', WAITING, field) end
end
call('HSET', REAPER, 'last', text(now), 'since', text(since), 'lease', next_lease, 'count', counts[1],
  'counted', text(counted))

-- 6. Records for /readyz since when a runtime that should keep warm workers has had no worker in any state. While the
-- pool has max_workers live workers, no runtime is recorded, because the pool is only busy.
local all = 0
for at = 1, #runtimes, 2 do all = all + call('SCARD', P .. 'live:' .. runtimes[at]) end
local most = tonumber(call('HGET', POLICY, 'max_workers')) or 0
for at = 1, #runtimes, 2 do
  local is_bare = tonumber(runtimes[at + 1]) > 0 and all < most and call('SCARD', P .. 'live:' .. runtimes[at]) == 0
  if is_bare then call('HSETNX', BARE, runtimes[at], text(now)) else call('HDEL', BARE, runtimes[at]) end
end
return text(now)
