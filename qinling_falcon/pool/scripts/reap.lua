-- reap: ends what nobody will end.
-- ARGV    5 holder_ttl_ms  6 worker_idle_ms
-- reads   holders, reported, held:<holder>, leases, worker:<id>, waiters, idle, warm:*, live:*, runtimes
-- writes  what release, decline and leave write; lost, reaper, bare; of dead holders holders, reported, held:, grants:
-- promises  a lease is lost when its deadline has passed, its holder is dead, or its holder lives and does not know
--           it (the answer was lost on the way); its worker drains, and what its record needs is put into `lost`,
--           once. A grant that was not accepted in time goes to the next waiter. Waiters of dead holders, or past
--           their time, leave. Workers that were idle for too long, and warm ones too many, drain; so does an idle
--           one that is in the way of a runtime's stock of warm ones.
--           If no reaper ran for long (Redis was down), holders get time to report first.

local ttl, idle = tonumber(ARGV[5]), tonumber(ARGV[6])
local UNKNOWN_AFTER_MS = 2000
local UNUSED_MS = 2000

local was = call('HMGET', REAPER, 'last', 'since')
local last, since = tonumber(was[1]), tonumber(was[2])
if not last or last > now or now - last > ttl / 2 then since = now end
call('HSET', REAPER, 'last', text(now), 'since', text(since))

local dead, alive = {}, {}
local holders = call('ZRANGE', HOLDERS, 0, -1, 'WITHSCORES')
for at = 1, #holders, 2 do
  if math.max(tonumber(holders[at + 1]), since) + ttl < now then dead[holders[at]] = true else alive[holders[at]] = true end
end

local leases = call('ZRANGE', LEASES, 0, -1, 'WITHSCORES')
for at = 1, #leases, 2 do
  local worker, deadline = leases[at], tonumber(leases[at + 1])
  local is = call('HMGET', P .. 'worker:' .. worker, 'holder', 'token', 'accepted', 'granted')
  local holder, granted = is[1], tonumber(is[4])
  if not dead[holder] and not alive[holder] and math.max(granted, since) + ttl < now then dead[holder] = true end
  local over = deadline <= now or dead[holder]
  if is[3] == '0' then
    if over then return_unused(worker) end
  else
    local reported = tonumber(call('ZSCORE', REPORTED, holder) or 0)
    local unknown = granted < reported and now - granted > UNKNOWN_AFTER_MS
      and call('SISMEMBER', P .. 'held:' .. holder, worker .. ':' .. is[2]) == 0
    if over or unknown then lose(worker) end
  end
end

local waiters = call('ZRANGE', WAITERS, 0, -1, 'WITHSCORES')
for at = 1, #waiters, 2 do
  local waiter, late = waiters[at], tonumber(waiters[at + 1]) <= now
  if late or dead[string.match(waiter, '^(.*)/')] then
    remove_waiter(waiter, call('HGET', P .. 'waiter:' .. waiter, 'line'))
    if late then tell(waiter, 'late') end
  end
end

for _, worker in ipairs(call('ZRANGEBYSCORE', IDLE, '-inf', now - idle)) do doom(worker) end
local runtimes = call('HGETALL', RUNTIMES)
for at = 1, #runtimes, 2 do
  local warm = P .. 'warm:' .. runtimes[at]
  local surplus = call('ZCARD', warm) - runtimes[at + 1]
  if surplus > 0 then
    for _, worker in ipairs(call('ZRANGEBYSCORE', warm, '-inf', now - idle, 'LIMIT', 0, surplus)) do doom(worker) end
  end
end

for holder in pairs(dead) do
  call('ZREM', HOLDERS, holder)
  call('ZREM', REPORTED, holder)
  call('DEL', P .. 'held:' .. holder, P .. 'grants:' .. holder)
end

settle_queue()

-- A first call should find a warm worker: where max_workers leave no room for stock, the least recently used idle
-- worker makes room, one a pass, as long as more than half of all workers hold a function. One that was used just now
-- stays: under load it is needed again at once, and would come back at the cost of the stock. Nor is there stock to
-- be made while somebody waits: it would be theirs at once, and cost the one who wants more workers one he has.
local short = 0
for at = 1, #runtimes, 2 do
  local coming = call('ZCARD', P .. 'warm:' .. runtimes[at]) + call('ZCARD', P .. 'starting:' .. runtimes[at])
  short = short + math.max(0, runtimes[at + 1] - coming)
end
local room = MAX_WORKERS - call('SCARD', WORKERS) + call('ZCARD', DRAINING)
if short > room and call('EXISTS', LINES) == 0 and (call('ZCARD', IDLE) + call('ZCARD', LEASES)) * 2 > MAX_WORKERS then
  local worker = call('ZRANGEBYSCORE', IDLE, '-inf', now - UNUSED_MS, 'LIMIT', 0, 1)[1]
  if worker then doom(worker) end
end

-- Records for /readyz since when a runtime that should keep warm workers has had no worker in any state. While the pool
-- has max_workers live workers, no runtime is recorded, because the pool is only busy.
local all = 0
for at = 1, #runtimes, 2 do all = all + call('SCARD', P .. 'live:' .. runtimes[at]) end
for at = 1, #runtimes, 2 do
  local without = tonumber(runtimes[at + 1]) > 0 and all < MAX_WORKERS and call('SCARD', P .. 'live:' .. runtimes[at]) == 0
  if without then call('HSETNX', BARE, runtimes[at], text(now)) else call('HDEL', BARE, runtimes[at]) end
end
return 1
