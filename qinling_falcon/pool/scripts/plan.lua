-- plan: how many workers to start now.
-- reads   runtimes, lines, line:*, running:*, warm:*, starting:*, workers      writes  nothing
-- returns {runtime, count, …} for every runtime that has a pool
-- promises  one start at most for each waiter that could run; never above max_workers; waiters come before stock

local wanted, order = demand()
local free = MAX_WORKERS - call('SCARD', WORKERS)
local runtimes = call('HGETALL', RUNTIMES)
local stock, starts, names = {}, {}, {}
for at = 1, #runtimes, 2 do
  local runtime = runtimes[at]
  local coming = call('ZCARD', P .. 'starting:' .. runtime)
  local unserved = (wanted[runtime] or 0) - coming
  names[#names + 1] = runtime
  starts[runtime] = 0
  wanted[runtime] = math.max(0, unserved)
  stock[runtime] = runtimes[at + 1] - call('ZCARD', P .. 'warm:' .. runtime) + math.min(0, unserved)
end

for _, runtime in ipairs(order) do
  starts[runtime] = math.max(0, math.min(wanted[runtime], free))
  free = free - starts[runtime]
end

table.sort(names)
local given = true
while given and free > 0 do  -- one each in turn, so that no runtime is left without while another has its fill
  given = false
  for _, runtime in ipairs(names) do
    if stock[runtime] > 0 and free > 0 then
      stock[runtime], starts[runtime], free = stock[runtime] - 1, starts[runtime] + 1, free - 1
      given = true
    end
  end
end

local answer = {}
for _, runtime in ipairs(names) do
  answer[#answer + 1] = runtime
  answer[#answer + 1] = starts[runtime]
end
return answer
