-- Asks for the right to run the work behind a key.
-- KEYS: what is remembered of it   ARGV: holder, lease in ms, 1 when it must never run twice, time that an unfinished run is known, in ms
local known = redis.call('HMGET', KEYS[1], 'state', 'token', 'until', 'holder', 'result')
if known[1] == 'done' then
  return {'seen', known[5]}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Grows also when the clock is set back.
local token = now * 1000
if known[1] == 'runs' then
  if known[4] ~= ARGV[1] and tonumber(known[3]) > now then
    return {'wait'}
  end
  if ARGV[3] == '1' then
    return {'unfinished', known[2]}
  end
  token = math.max(token, known[2] + 1)
end
local text = string.format('%.0f', token)
redis.call('HSET', KEYS[1], 'state', 'runs', 'token', text, 'until', string.format('%.0f', now + ARGV[2]), 'holder', ARGV[1])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[2] + ARGV[4]))
return {'run', text}
