-- inspect_workers: a page of the workers, each with its lease.
-- ARGV    2 cursor  3 how many of the workers at the cursor earlier pages had  4 the most workers to return
-- returns JSON: the workers, and the cursor and number for the next page if there is one
-- cost      one SSCAN, and two commands for each worker

local COUNT = 100  -- always the same, so that a cursor stands for the same workers

local found = call('SSCAN', WORKERS, ARGV[2], 'COUNT', COUNT)
local first = tonumber(ARGV[3])
local last = math.min(#found[2], first + tonumber(ARGV[4]))
local workers = {}
for at = first + 1, last do workers[#workers + 1] = show_worker(found[2][at]) end
local answer = {workers = workers}
if last < #found[2] then
  answer.cursor, answer.number = ARGV[2], last
elseif found[1] ~= '0' then
  answer.cursor, answer.number = found[1], 0
end
return cjson.encode(answer)
