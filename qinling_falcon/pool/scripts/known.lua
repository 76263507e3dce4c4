-- known: every worker that the pool knows, and the state that it is in.
-- reads   workers, worker:<id>      writes  nothing
-- returns pairs of (worker, state)

local answer = {}
for _, worker in ipairs(call('SMEMBERS', WORKERS)) do
  answer[#answer + 1] = worker
  answer[#answer + 1] = call('HGET', P .. 'worker:' .. worker, 'state')
end
return answer
