-- keep: marks workers of a target as kept. They are not evicted, not recalled, and not ended because they are idle.
-- ARGV    2 target  3 how many
-- reads   assigned:<function>, worker:<id>, idle:<target>
-- writes  worker:<id>, idle, kept
-- returns how many of the target's workers are kept now: at most that many, and no more than it has
-- cost      two commands for each worker of the function

local KEPT = P .. 'kept'
local target, wanted = ARGV[2], tonumber(ARGV[3])

local kept, others = {}, {}
for _, worker in ipairs(call('SMEMBERS', P .. 'assigned:' .. function_of(target))) do
  local is = call('HMGET', record(worker), 'target', 'state', 'drain', 'kept', 'new')
  -- A worker on its first lease may still be returned unused. It then holds no target.
  local is_sure = is[2] == 'idle' or is[2] == 'leased' and is[5] ~= '1'
  if is[1] == target and not is[3] and is_sure then
    if is[4] then kept[#kept + 1] = worker else others[#others + 1] = worker end
  end
end

while #kept > wanted do
  local worker = table.remove(kept)
  call('HDEL', record(worker), 'kept')
  local used = call('ZSCORE', P .. 'idle:' .. target, worker)
  if used then call('ZADD', IDLE, used, worker) end
end
while #kept < wanted and #others > 0 do
  local worker = table.remove(others)
  call('HSET', record(worker), 'kept', '1')
  call('ZREM', IDLE, worker)
  kept[#kept + 1] = worker
end

if wanted > 0 then call('HSET', KEPT, target, #kept) else call('HDEL', KEPT, target) end
return #kept
