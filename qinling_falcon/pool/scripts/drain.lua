-- drain: the workers of a function (or of one version) end, after their call if they have one.
-- include: limits workers queues leases
-- ARGV    2 function  3 what their target begins with: 'function:' or 'function:version:'
-- reads   assigned:<function>, worker:<id>
-- writes  for each worker: worker:<id>, idle and idle:<target>, draining, live:<runtime>, held,
--         assigned:<function>; of a leased one only worker:<id>
-- returns the number of workers
-- promises  no call that begins later gets one of them

local count = 0
for _, worker in ipairs(call('SMEMBERS', P .. 'assigned:' .. ARGV[2])) do
  local target = call('HGET', record(worker), 'target')
  if target and string.sub(target, 1, #ARGV[3]) == ARGV[3] then
    drain(worker, 'ended', 'the function was changed, deleted or detached')
    count = count + 1
  end
end
return count
