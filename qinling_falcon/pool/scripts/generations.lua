-- generations: the present generation of each what, made where there is none.
-- ARGV    5… pairs of (what, a new random generation)
-- reads   generations      writes  generations
-- returns the generations in order; 'changing …' while a change is under way
-- promises  a generation that was made here was never in use before

if call('HLEN', GENERATIONS) > 100000 then call('DEL', GENERATIONS) end  -- all is resolved once more
local answers = {}
for at = 5, #ARGV, 2 do
  local is = generation(call('HGET', GENERATIONS, ARGV[at]))
  if not is then
    is = ARGV[at + 1]
    call('HSET', GENERATIONS, ARGV[at], is)
  end
  answers[#answers + 1] = is
end
return answers
