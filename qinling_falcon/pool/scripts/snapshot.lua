-- snapshot: reads all keys of the pool at one moment, for tests.
-- returns pairs of (name, value) for all keys that can be reached from the pool's own lists: hashes and sets as Redis
--         gives them

local answer, seen = {text(now)}, {}
local function show(command, name, ...)
  if seen[name] then return end
  seen[name] = true
  answer[#answer + 1] = name
  answer[#answer + 1] = call(command, P .. name, ...)
end

for _, name in ipairs({'runtimes', 'lost', 'bare', 'concurrency', 'waiting', 'policy', 'busy'}) do
  show('HGETALL', name)
end
show('SMEMBERS', 'workers')
for _, name in ipairs({'idle', 'leases', 'draining', 'holders', 'former', 'held', 'assigned_at', 'recalls'}) do
  show('ZRANGE', name, 0, -1, 'WITHSCORES')
end
local function show_runtime(runtime)
  show('SMEMBERS', 'live:' .. runtime)
  for _, set in ipairs({'starting:', 'warm:', 'escalated:', 'blocked:runtime:'}) do
    show('ZRANGE', set .. runtime, 0, -1, 'WITHSCORES')
  end
end
for _, runtime in ipairs(call('HKEYS', RUNTIMES)) do show_runtime(runtime) end
for _, worker in ipairs(call('SMEMBERS', WORKERS)) do
  show('HGETALL', 'worker:' .. worker)
  local is = call('HMGET', record(worker), 'runtime', 'target')
  show_runtime(is[1])
  if is[2] then
    show('ZRANGE', 'idle:' .. is[2], 0, -1, 'WITHSCORES')
    show('SMEMBERS', 'assigned:' .. function_of(is[2]))
  end
end
for _, set in ipairs({HOLDERS, FORMER}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do
    show('HGETALL', 'journal:' .. holder)
    show('SMEMBERS', 'entries:' .. holder)
    for _, queue in ipairs(call('SMEMBERS', ENTRIES_OF .. holder)) do
      local runtime, _, project_id = parse_queue(queue)
      show('ZRANGE', 'queue:' .. queue, 0, -1, 'WITHSCORES')
      show('HGETALL', 'counts:' .. queue)
      show('ZRANGE', 'blocked:project:' .. project_id, 0, -1, 'WITHSCORES')
      show_runtime(runtime)
    end
  end
end
return answer
