-- shrink: drains some of the workers that hold a version of a function.
-- ARGV    2 function  3 the beginning of their target: 'function:version:'  4 how many
-- reads   assigned:<function>, worker:<id>
-- writes  for each worker what drain writes
-- returns how many workers drain
-- promises  One worker that can get another call is left, if there was one. Idle ones drain first, the least recently
--           used first. Leased ones drain after their call.

local workers = workers_of(ARGV[2], ARGV[3])
local count = math.max(0, math.min(tonumber(ARGV[4]), #workers - 1))
for at = 1, count do drain(workers[at], 'ended', 'scaled down') end
return count
