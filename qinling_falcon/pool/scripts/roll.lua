-- roll: one step of replacing workers that were made from another image than their runtime's workers are made from now.
-- ARGV    5… pairs of (runtime, its image)
-- reads   runtimes, workers, starting:*, warm:*, idle, leases, draining, worker:<id>
-- writes  starting:*, warm:*; of free workers idle, idle:<target>, draining, live:*, wakeups; worker:<id> doomed
-- returns for each pair how many workers of another image may get a call yet
-- promises  one of another image that is starting never serves. Those that serve end one after another, the next one
--           when the one before is gone: with a full stock warm ones first, then the least recently used idle one, then
--           of the leased ones as many as warm ones can stand in for. So by this the stock is never more than one
--           short. Where max_workers keep it short, and nothing is on its way to fill it, an old worker makes room: a
--           warm one last. A call takes a warm worker of the new image before one of the old.

local images, old, ending, answer = {}, {}, {}, {}
for at = 5, #ARGV, 2 do
  images[ARGV[at]] = ARGV[at + 1]
  old[ARGV[at]] = {starting = {}, warm = {}, idle = {}, leased = {}}
end

local function find_old(state, set)
  for _, worker in ipairs(call('ZRANGE', set, 0, -1)) do
    local is = call('HMGET', P .. 'worker:' .. worker, 'runtime', 'image', 'doomed')
    local image = images[is[1]]
    if image and is[2] ~= image and not is[3] then table.insert(old[is[1]][state], worker) end
  end
end
for runtime in pairs(images) do
  find_old('starting', P .. 'starting:' .. runtime)
  find_old('warm', P .. 'warm:' .. runtime)
end
find_old('idle', IDLE)
find_old('leased', LEASES)
for _, worker in ipairs(call('ZRANGE', DRAINING, 0, -1)) do
  local is = call('HMGET', P .. 'worker:' .. worker, 'runtime', 'ready')
  if is[2] then ending[is[1]] = true end
end
local crowded = call('SCARD', WORKERS) >= MAX_WORKERS

-- Returns how many get no further call from now on.
local function step(runtime, found)
  for _, worker in ipairs(found.starting) do
    call('ZREM', P .. 'starting:' .. runtime, worker)
    put_draining(worker, runtime)
  end
  for _, worker in ipairs(found.warm) do call('ZADD', P .. 'warm:' .. runtime, now, worker) end
  local warm = call('ZCARD', P .. 'warm:' .. runtime)
  local full = warm >= tonumber(call('HGET', RUNTIMES, runtime) or 0)
  local stuck = crowded and call('ZCARD', P .. 'starting:' .. runtime) == 0
  if ending[runtime] or not (full or stuck) then return 0 end
  for _, state in ipairs(full and {'warm', 'idle', 'leased'} or {'idle', 'leased', 'warm'}) do
    local count = math.min(#found[state], state == 'leased' and math.max(1, warm) or 1)
    for at = 1, count do doom(found[state][at]) end
    if count > 0 then return count end
  end
  return 0
end

for at = 5, #ARGV, 2 do
  local found = old[ARGV[at]]
  local ended = step(ARGV[at], found)
  answer[#answer + 1] = #found.warm + #found.idle + #found.leased - ended
end
return answer
