-- list: a page of the workers that the pool knows.
-- ARGV    2 cursor, '0' at first  3 approximately how many
-- reads   workers, worker:<id>
-- returns {the next cursor, '0' at the end; then of each worker id, state, runtime, image, target, drain, granted,
--         ready, single_use}

local page = call('SSCAN', WORKERS, ARGV[2], 'COUNT', ARGV[3])
local answer = {page[1]}
for _, worker in ipairs(page[2]) do
  local is = call('HMGET', record(worker), 'state', 'runtime', 'image', 'target', 'drain', 'granted',
    'ready', 'single_use')
  answer[#answer + 1] = worker
  for at = 1, 8 do answer[#answer + 1] = is[at] or '' end
end
return answer
