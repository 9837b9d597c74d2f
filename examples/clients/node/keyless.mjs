// In a pod, with its ServiceAccount token instead of a key. See keyless.yaml for the pod's part.
import { readFile } from "node:fs/promises";
import OpenAI from "openai";

const token = process.env.TOKEN_FILE ?? "/var/run/secrets/chatservice/token";

// Called for each request: the kubelet replaces the token before it expires.
const client = new OpenAI({ apiKey: async () => (await readFile(token, "utf8")).trim() });

const model = (await client.models.list()).data[0].id;
const answer = await client.chat.completions.create({ model, messages: [{ role: "user", content: "Who am I?" }] });
console.log(answer.choices[0].message.content);
