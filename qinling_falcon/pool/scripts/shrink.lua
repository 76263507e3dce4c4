-- shrink: fewer workers hold a version of a function.
-- include: limits workers queues leases versions
-- ARGV    2 function  3 what their target begins with: 'function:version:'  4 how many less
-- reads   assigned:<function>, worker:<id>
-- writes  for each worker that ends what drain writes
-- returns how many end
-- promises  of the workers that can get another call one is left, when there was one; free ones end first, the least
--           recently used first, leased ones after their call

local workers = workers_of(ARGV[2], ARGV[3])
local count = math.max(0, math.min(tonumber(ARGV[4]), #workers - 1))
for at = 1, count do drain(workers[at], 'ended', 'scaled down') end
return count
