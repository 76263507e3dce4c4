-- snapshot: everything in the pool at one moment, for the operator's view and for tests.
-- reads   all keys that can be reached from the pool's own lists      writes  nothing
-- returns pairs of (name, value): hashes and sets as redis gives them, worker:* and waiter:* as hashes

local answer, seen = {text(now)}, {}
local function show(command, name, ...)
  if seen[name] then return end
  seen[name] = true
  answer[#answer + 1] = name
  answer[#answer + 1] = call(command, P .. name, ...)
end

for _, name in ipairs({'runtimes', 'executions', 'lost', 'bare'}) do show('HGETALL', name) end
show('SMEMBERS', 'workers')
for _, name in ipairs({'idle', 'leases', 'draining', 'waiters', 'lines', 'holders'}) do
  show('ZRANGE', name, 0, -1, 'WITHSCORES')
end
local function show_runtime(runtime)
  show('SMEMBERS', 'live:' .. runtime)
  for _, state in ipairs({'starting:', 'warm:'}) do show('ZRANGE', state .. runtime, 0, -1, 'WITHSCORES') end
end
for _, runtime in ipairs(call('HKEYS', RUNTIMES)) do show_runtime(runtime) end
for _, worker in ipairs(call('SMEMBERS', WORKERS)) do
  show('HGETALL', 'worker:' .. worker)
  local is = call('HMGET', P .. 'worker:' .. worker, 'runtime', 'target', 'function', 'project')
  show_runtime(is[1])
  if is[2] then show('ZRANGE', 'idle:' .. is[2], 0, -1, 'WITHSCORES') end
  if is[3] then show('SMEMBERS', 'running:function:' .. is[3]) end
  if is[4] then show('SMEMBERS', 'running:project:' .. is[4]) end
end
for _, line in ipairs(call('ZRANGE', LINES, 0, -1)) do show('ZRANGE', 'line:' .. line, 0, -1, 'WITHSCORES') end
for _, waiter in ipairs(call('ZRANGE', WAITERS, 0, -1)) do
  show('HGETALL', 'waiter:' .. waiter)
  local _, _, function_id, project_id = parts(call('HGET', P .. 'waiter:' .. waiter, 'line'))
  show('SMEMBERS', 'waiting:function:' .. function_id)
  show('SMEMBERS', 'waiting:project:' .. project_id)
end
return answer
