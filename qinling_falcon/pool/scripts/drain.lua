-- drain: drains the workers of a function, or of one version. A leased worker drains after its call.
-- ARGV    2 function  3 the beginning of their target: 'function:' or 'function:version:'
-- reads   assigned:<function>, worker:<id>
-- writes  for each worker: worker:<id>, idle and idle:<target>, draining, live:<runtime>, held,
--         assigned:<function>; of a leased one only worker:<id>
-- returns the number of workers
-- promises  no call that starts later gets one of these workers

local count = 0
for _, worker in ipairs(call('SMEMBERS', P .. 'assigned:' .. ARGV[2])) do
  local target = call('HGET', record(worker), 'target')
  if target and string.sub(target, 1, #ARGV[3]) == ARGV[3] then
    drain(worker, 'ended', 'the function was changed, deleted or detached')
    count = count + 1
  end
end
return count
